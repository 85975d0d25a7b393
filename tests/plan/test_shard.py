"""Shards: every record is in exactly one, in order; costs are similar."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protrna_cli.plan import pieces
from protrna_cli.plan.shard import Shard
from tests.conftest import SAMPLE, Run


@given(st.lists(st.integers(0, 40), min_size=1, max_size=40).filter(any), st.integers(1, 12), st.booleans())
def test_shards_are_a_partition_in_order(costs: list[int], count: int, by_chunk: bool) -> None:
    class Item:
        def __init__(self, place: int, length: int) -> None:
            self.place, self.length = place, length

    items = [Item(place, length) for place, length in enumerate(costs)]
    slices = [
        list(pieces.sliced(items, Shard(i, count), lambda item: item.length, sum(costs), by_chunk))
        for i in range(1, count + 1)
    ]
    assert [item for each in slices for item in each] == items
    if not by_chunk:
        heaviest = max(sum(item.length for item in each) for each in slices)
        assert heaviest <= sum(costs) / count + max(costs)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3"])
def test_bad_shards_are_refused(run: Run, text: str) -> None:
    outcome = run("embed", SAMPLE, "-o", "out.npy", "--shard", text)
    assert (outcome.code, "--shard takes I/N" in outcome.err) == (2, True)
