"""The table of windows compares what an output has, and counts distances from edges inside the record."""

import re

import numpy as np
import pytest

from protrna_cli import embed, load_model
from protrna_cli.plan.pieces import Piece, cut
from protrna_cli.plan.rules import Rules
from tests.benchmarks import windows
from tests.conftest import TOY

RULES = Rules(max_length=60, overlap=15)


def test_an_end_of_the_record_is_no_edge() -> None:
    first, second, last = cut(0, 20, Rules(max_length=10, overlap=4))
    assert windows.distances(first, 20).tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert windows.distances(second, 20).tolist() == [0, 1, 2, 3, 4, 4, 3, 2, 1, 0]
    assert windows.distances(last, 20).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert set(windows.distances(Piece(0, 0, 20, 20), 20)) == {windows.NO_EDGE}


@pytest.mark.slow
def test_the_joined_vectors_are_those_of_an_output() -> None:
    model = load_model(TOY)
    sequence = windows.random_rna(200, seed=1)
    [whole] = embed([sequence], model, per_token=True, long="whole")
    [given] = embed([sequence], model, per_token=True, max_length=60, overlap=15)
    (places, alone), (nearest, joined) = windows.compare(model, sequence, whole, RULES)
    pieces = cut(0, 200, RULES)
    assert len(places) == len(alone) == 60 * len(pieces)
    assert (nearest == 0).sum() == 2 * (len(pieces) - 1)
    # by the law of cosines
    sides = [(vectors.astype(float) ** 2).sum(axis=1) for vectors in (whole, given, whole - given)]
    expected = (sides[0] + sides[1] - sides[2]) / (2 * np.sqrt(sides[0] * sides[1]))
    np.testing.assert_allclose(joined, expected, rtol=0, atol=1e-5)
    covered_once = np.arange(pieces[1].start)
    np.testing.assert_array_equal(joined[covered_once], alone[covered_once])


@pytest.mark.slow
def test_one_window_is_the_record_itself(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["--length", "60", "--max-length", "60", "--overlap", "15", "30"]
    windows.main([str(TOY), *lines])
    shown = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in shown] == [
        "residues to the edge",
        "---",
        "256 and more",
        "another residue, same letter",
    ]
    assert re.findall(r"[\d.]+ \([\d.]+\)", shown[2]) == ["1.0000 (1.0000)"] * 4
