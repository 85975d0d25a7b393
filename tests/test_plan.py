"""Windows and batches: every record once, in order, within bounds."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from protrna_cli import plan


@dataclass(frozen=True)
class Sized:
    length: int


LENGTHS = st.lists(st.integers(1, 60), max_size=60)


@given(LENGTHS, st.integers(1, 10), st.integers(1, 100))
def test_windows_are_bounded_runs_of_all_records(lengths: list[int], most: int, residues: int) -> None:
    records = [Sized(length) for length in lengths]
    cut = list(plan.windows(records, most, residues))
    assert [record for window in cut for record in window] == records
    for window in cut:
        assert 1 <= len(window) <= most
        assert sum(r.length for r in window) <= residues or len(window) == 1


@given(LENGTHS, st.integers(1, 200))
def test_batches_hold_every_place_once_within_the_budget(lengths: list[int], budget: int) -> None:
    packed = plan.batches(lengths, budget)
    assert sorted(place for batch in packed for place in batch) == list(range(len(lengths)))
    for batch in packed:
        assert len(batch) == 1 or len(batch) * (max(lengths[i] for i in batch) + 2) <= budget


@given(LENGTHS, st.integers(1, 200))
def test_batches_come_longest_first(lengths: list[int], budget: int) -> None:
    order = [lengths[place] for batch in plan.batches(lengths, budget) for place in batch]
    assert order == sorted(lengths, reverse=True)
