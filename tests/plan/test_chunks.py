"""Chunks, windows and batches: every record once, in order, within bounds."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protrna_cli.plan import pieces
from protrna_cli.plan.pieces import blend, cut, pack
from protrna_cli.plan.rules import DEFAULT_RULES, Rules


@dataclass(frozen=True)
class Sized:
    length: int


LENGTHS = st.lists(st.integers(1, 60), max_size=60)


@given(LENGTHS, st.integers(1, 10), st.integers(1, 100))
def test_chunks_are_bounded_runs_of_all_records(lengths: list[int], most: int, residues: int) -> None:
    records = [Sized(length) for length in lengths]
    made = list(pieces.into_chunks(records, most, residues))
    assert [record for chunk in made for record in chunk] == records
    for chunk in made:
        assert 1 <= len(chunk) <= most
        assert sum(r.length for r in chunk) <= residues or len(chunk) == 1


@given(LENGTHS, st.integers(1, 200))
def test_batches_hold_every_place_once_within_the_budget(lengths: list[int], budget: int) -> None:
    packed = pack(lengths, budget)
    assert sorted(place for batch in packed for place in batch) == list(range(len(lengths)))
    for batch in packed:
        tokens = [lengths[i] + 2 for i in batch]
        assert len(batch) == 1 or sum(tokens) <= budget
        assert 2 * min(tokens) >= max(tokens)


@given(LENGTHS, st.integers(1, 200))
def test_batches_come_longest_first(lengths: list[int], budget: int) -> None:
    order = [lengths[place] for batch in pack(lengths, budget) for place in batch]
    assert order == sorted(lengths, reverse=True)


@given(st.integers(1, 3000), st.integers(2, 600), st.data())
def test_every_residue_is_covered_and_the_weights_add_up(
    length: int, longest: int, data: st.DataObject
) -> None:
    rules = Rules(max_length=longest, overlap=data.draw(st.integers(1, longest - 1)))
    pieces = cut(0, length, rules)
    total = np.zeros(length)
    for piece, weight in zip(pieces, blend(pieces), strict=True):
        assert 1 <= piece.length <= longest
        assert (weight > 0).all()
        total[piece.start : piece.stop] += weight
    np.testing.assert_allclose(total, 1, rtol=0, atol=1e-6)
    assert sum(piece.fresh for piece in pieces) == length
    for before, after in pairwise(pieces):
        assert before.stop - after.start >= rules.shared
        assert after.stop > before.stop


@pytest.mark.parametrize(
    ("length", "count"), [(1, 1), (510, 1), (511, 2), (893, 2), (894, 3), (100_000, 261)]
)
def test_a_long_record_has_as_many_windows_as_it_needs(length: int, count: int) -> None:
    pieces = cut(0, length, DEFAULT_RULES)
    assert len(pieces) == count
    assert pieces[-1].stop == length


def test_a_weight_falls_towards_the_edge_of_its_window() -> None:
    """A window has almost no weight at its edge, so there is no seam where the next window takes over."""
    first, second = blend(cut(0, 880, DEFAULT_RULES))
    assert (first[:370] == 1).all()
    assert (np.diff(first[370:]) < 0).all()
    assert first[-1] < 0.01
    np.testing.assert_allclose(first, second[::-1])


@pytest.mark.parametrize(("long", "spans"), [("truncate", [(0, 510)]), ("whole", [(0, 800)])])
def test_other_rules_run_one_piece(long: str, spans: list[tuple[int, int]]) -> None:
    pieces = cut(0, 800, Rules(long=long))
    assert [(piece.start, piece.stop) for piece in pieces] == spans
