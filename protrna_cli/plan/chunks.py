"""Chunks: bounded runs of consecutive records, the unit of memory, of output order and of commit.

A shard is cut between chunks where there are enough of them, so that every batch is the same as in one run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from protrna_cli.plan.shard import Shard

CHUNK_RECORDS = 4096
CHUNK_RESIDUES = 1 << 20

CHUNKS_A_SHARD = 16
"""Shards with at least so many chunks are cut between chunks: their costs then differ by some percent."""


class HasLength(Protocol):
    """Anything counted in residues."""

    @property
    def length(self) -> int:
        """Count of residues."""


_R = TypeVar("_R", bound=HasLength)


def into_chunks(
    records: Iterable[_R], max_records: int | None = None, max_residues: int | None = None
) -> Iterator[list[_R]]:
    """Cut records into chunks.

    A chunk ends before the record that would break a bound; a record longer than `max_residues` is a chunk
    of its own.

    Parameters
    ----------
    max_records, max_residues
        The bounds; by default `CHUNK_RECORDS` and `CHUNK_RESIDUES`.

    >>> from collections import namedtuple
    >>> records = [namedtuple("Record", "length")(length) for length in (3, 4, 2)]
    >>> [[record.length for record in chunk] for chunk in into_chunks(records, max_residues=7)]
    [[3, 4], [2]]
    """
    max_records = max_records or CHUNK_RECORDS
    max_residues = max_residues or CHUNK_RESIDUES
    chunk: list[_R] = []
    residues = 0
    for record in records:
        if chunk and (len(chunk) == max_records or residues + record.length > max_residues):
            yield chunk
            chunk, residues = [], 0
        chunk.append(record)
        residues += record.length
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
    """Take a shard's slice: consecutive items, of similar cost from shard to shard.

    Reading stops at the first item beyond the shard.

    Parameters
    ----------
    items
        All items from the first of some chunk on, which is at or before the shard's first item.
    cost, total
        What an item costs, and all of them together.
    by_chunk
        Cut between chunks only, so that every batch is the same as in one run.
    done
        What the items before these cost.
    """
    for group in into_chunks(items) if by_chunk else ([item] for item in items):
        costs = sum(cost(item) for item in group)
        # The last item may cost nothing and stand at the very end.
        before = min(done, total - 1)
        if shard.holds(before, costs, total):
            yield from group
        elif shard.ends_before(before, costs, total):
            return
        done += costs
