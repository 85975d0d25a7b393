"""The whole way, from FASTA to files, against the float64 reference."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protrna_cli import EmbedOptions, embed_fasta
from protrna_cli.output import read_output
from protrna_cli.output.rows import Header, Row
from tests import reference
from tests.conftest import GOLDEN, SAMPLE, Run
from tests.test_output import KINDS, joined

TOY = GOLDEN / "toy.h5"
LETTERS = {letter: i for i, letter in enumerate("augcx", start=33)}


def read(path: Path) -> tuple[Header, list[Row], Any]:
    header, blocks = read_output(path)
    rows, [values] = joined(blocks)
    return header, rows, values


def expected_residues(sequences: list[str], layer: int = -1) -> list[Any]:
    """Residue vectors (L, D) of each sequence, run alone in float64."""
    weights = reference.read_weights(TOY)
    framed = [[0, *(LETTERS[c] for c in sequence), 2] for sequence in sequences]
    return [reference.forward(weights, np.array([ids])).representations[layer][0, 1:-1] for ids in framed]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Forty records of mixed lengths, some equal, and their letters as the model reads them."""
    rng = np.random.default_rng(11)
    sequences = [
        "".join(rng.choice(list("acgux"), size, p=[0.24] * 4 + [0.04])) for size in rng.integers(1, 90, 40)
    ]
    sequences[20] = sequences[3]
    path = tmp_path_factory.mktemp("in") / "in.fa"
    path.write_text(
        "".join(f">r{i} the {i}th\n{s.upper().replace('X', 'N')}\n" for i, s in enumerate(sequences))
    )
    return path, sequences


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize(("format", "h5_layout"), KINDS)
def test_every_format_holds_the_reference_rows_in_input_order(
    tmp_path: Path, inputs: tuple[Path, list[str]], format: str, h5_layout: str, per_token: bool
) -> None:
    path, sequences = inputs
    out = tmp_path / f"out.{format}"
    options = EmbedOptions(model=str(TOY), h5_layout=h5_layout, per_token=per_token, batch_tokens=300)
    summary = embed_fasta(path, out, options)
    header, rows, values = read(out)
    residues = expected_residues(sequences)
    expected = np.concatenate(residues) if per_token else np.stack([r.mean(0) for r in residues])
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4)
    assert [(row.id, row.description) for row in rows] == [(f"r{i}", f"the {i}th") for i in range(40)]
    assert [row.length for row in rows] == [row.n_embedded for row in rows] == list(map(len, sequences))
    assert [row.n_unknown for row in rows] == [s.count("x") for s in sequences]
    assert header.n_rows == summary.n_records == 40
    assert header.n_residues == summary.n_residues == sum(map(len, sequences))
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(("pool", "layer"), [("max", -1), ("cls", -1), ("mean", 1), ("mean", 0)])
def test_pooling_and_layer_are_what_was_asked(
    tmp_path: Path, inputs: tuple[Path, list[str]], pool: str, layer: int
) -> None:
    path, sequences = inputs
    embed_fasta(path, tmp_path / "out.npy", EmbedOptions(model=str(TOY), pool=pool, layer=layer))
    weights = reference.read_weights(TOY)
    for row, sequence in zip(np.load(tmp_path / "out.npy"), sequences, strict=True):
        tokens = np.array([[0, *(LETTERS[c] for c in sequence), 2]])
        hidden = reference.forward(weights, tokens).representations[layer][0]
        expected = {"max": hidden[1:-1].max(0), "cls": hidden[0], "mean": hidden[1:-1].mean(0)}[pool]
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-4)


def test_the_batch_budget_changes_nothing(tmp_path: Path, inputs: tuple[Path, list[str]]) -> None:
    arrays = []
    for budget in (1, 150, 100_000):
        out = tmp_path / f"{budget}.npy"
        embed_fasta(inputs[0], out, EmbedOptions(model=str(TOY), batch_tokens=budget))
        arrays.append(np.load(out))
    for array in arrays[1:]:
        np.testing.assert_allclose(array, arrays[0], rtol=0, atol=1e-5)


def test_the_mean_of_the_residues_is_the_pooled_row(tmp_path: Path) -> None:
    for kind in (False, True):
        embed_fasta(SAMPLE, tmp_path / f"{kind}.npy", EmbedOptions(model="demo", per_token=kind))
    _, rows, pooled = read(tmp_path / "False.npy")
    _, _, residues = read(tmp_path / "True.npy")
    parts = np.split(residues, np.cumsum([row.length for row in rows])[:-1])
    for part, row, mean in zip(parts, rows, pooled, strict=True):
        assert part.shape == (row.length, 320)
        np.testing.assert_allclose(part.mean(0), mean, rtol=0, atol=1e-5)


def test_float16_is_the_rounded_float32(tmp_path: Path) -> None:
    for dtype in ("float32", "float16"):
        embed_fasta(SAMPLE, tmp_path / f"{dtype}.npy", EmbedOptions(model="demo", dtype=dtype))
    exact, half = np.load(tmp_path / "float32.npy"), np.load(tmp_path / "float16.npy")
    assert half.dtype == np.float16
    assert np.array_equal(half, exact.astype(np.float16))


def test_windows_keep_input_order(tmp_path: Path, inputs: tuple[Path, list[str]], monkeypatch: Any) -> None:
    from protrna_cli import plan

    whole = tmp_path / "whole.npy"
    embed_fasta(inputs[0], whole, EmbedOptions(model=str(TOY)))
    monkeypatch.setattr(plan.windows, "__defaults__", (7, 200))
    embed_fasta(inputs[0], tmp_path / "cut.npy", EmbedOptions(model=str(TOY)))
    np.testing.assert_allclose(np.load(tmp_path / "cut.npy"), np.load(whole), rtol=0, atol=1e-5)


def test_provenance_says_how_it_was_made(tmp_path: Path, run: Run) -> None:
    import hashlib

    out = tmp_path / "out.parquet"
    assert run("embed", SAMPLE, "-o", out, "--model", TOY, "--pool", "max").code == 0
    provenance = read_output(out)[0].provenance
    assert provenance["model"]["weights_sha256"] == hashlib.sha256(TOY.read_bytes()).hexdigest()
    assert provenance["inputs"] == [
        {"name": SAMPLE.name, "sha256": hashlib.sha256(SAMPLE.read_bytes()).hexdigest()}
    ]
    assert (provenance["pooling"], provenance["layers"], provenance["precision"]) == ("max", [3], "float32")
    assert "notice" not in provenance
    shown = run("info", out).out
    assert "46 rows" in shown
    assert "pooling: max" in shown
