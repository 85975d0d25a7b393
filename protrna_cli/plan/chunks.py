"""Chunks: bounded runs of consecutive records, the unit of memory, output order and commit.

If there are enough chunks, shards are cut between them, so that batches are the same as in an unsharded run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from protrna_cli.plan.shard import Shard

CHUNK_RECORDS = 4096
CHUNK_RESIDUES = 1 << 20

CHUNKS_A_SHARD = 16
"""If there are at least this many chunks per shard, shards are cut between chunks; their costs then differ by
a few percent."""


class HasLength(Protocol):
    """Anything counted in residues."""

    @property
    def length(self) -> int:
        """Count of residues."""


_R = TypeVar("_R", bound=HasLength)


def into_chunks(
    records: Iterable[_R],
    max_records: int | None = None,
    max_residues: int | None = None,
    halvings: int = 0,
) -> Iterator[list[_R]]:
    """Group records into chunks.

    A chunk ends before the record that would exceed a bound. A record longer than `max_residues` is a chunk
    by itself.

    Parameters
    ----------
    max_records, max_residues
        Bounds of a chunk; by default `CHUNK_RECORDS` and `CHUNK_RESIDUES`.
    halvings
        How many times the bounds of the first chunk are halved; of each next one, once less.

    >>> from collections import namedtuple
    >>> records = [namedtuple("Record", "length")(length) for length in (3, 4, 2)]
    >>> [[record.length for record in chunk] for chunk in into_chunks(records, max_residues=7)]
    [[3, 4], [2]]
    >>> [len(chunk) for chunk in into_chunks(records * 5, max_records=8, halvings=2)]
    [2, 4, 8, 1]
    """
    max_records = max_records or CHUNK_RECORDS
    max_residues = max_residues or CHUNK_RESIDUES
    chunk: list[_R] = []
    residues = 0
    for record in records:
        if chunk and residues + record.length > max(1, max_residues >> halvings):
            yield chunk
            chunk, residues, halvings = [], 0, max(0, halvings - 1)
        chunk.append(record)
        residues += record.length
        if len(chunk) >= max(1, max_records >> halvings):
            yield chunk
            chunk, residues, halvings = [], 0, max(0, halvings - 1)
    if chunk:
        yield chunk


def sliced(
    items: Iterable[_R],
    shard: Shard,
    cost: Callable[[_R], int],
    total: int,
    by_chunk: bool,
    done: int = 0,
) -> Iterator[_R]:
    """Yield the items of a shard. Shards are consecutive slices of similar cost.

    Stops reading at the first item after the shard.

    Parameters
    ----------
    items
        All items from the start of some chunk on, at or before the shard's first item.
    cost, total
        Cost of an item, and of all items of the input.
    by_chunk
        Cut only between chunks, so that batches are the same as in an unsharded run.
    done
        Cost of the items before `items`.
    """
    for group in into_chunks(items) if by_chunk else ([item] for item in items):
        costs = sum(cost(item) for item in group)
        # Without the bound, an item of cost 0 at the very end would be in no shard.
        before = min(done, total - 1)
        if shard.contains(before, costs, total):
            yield from group
        elif shard.ends_before(before, costs, total):
            return
        done += costs
