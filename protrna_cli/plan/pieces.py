"""What becomes of records: rows of an output, pieces that fit the model, and chunks.

Pieces: cut long records into windows, join windows again, and pack pieces into batches.

Chunks: bounded runs of consecutive records, the unit of memory, output order and commit. If there are enough
of them, shards are cut between them, so that batches are the same as in an unsharded run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, TypeVar, get_type_hints

import numpy as np
import numpy.typing as npt

from protrna_cli.plan.rules import Rules
from protrna_cli.plan.shard import Shard


@dataclass(frozen=True, slots=True)
class Row:
    """One row of an output, without its embedding: a record, or a region of one."""

    # First word of the FASTA header, and the rest of it. The id of a region is `ID:NAME`.
    id: str
    description: str
    length: int  # residues of the record or region
    n_embedded: int  # residues that the embedding covers
    n_unknown: int  # unknown residues (`x`)
    n_windows: int  # number of pieces in which the record ran
    md5: str = ""  # of the sequence in upper-case DNA letters, see `Embedding`


SKIPPED_COLUMNS = ("file", "record", "id", "line", "position", "reason")
"""Columns of a list of skipped records: the attributes of each."""

_TYPES = get_type_hints(Row)

ROW_COLUMNS = tuple(_TYPES)
COUNT_COLUMNS = tuple(name for name, kind in _TYPES.items() if kind is int)


def row_of(values: Mapping[str, Any], columns: Iterable[str]) -> Row:
    """Make a row of the values in these columns, which may be text or of another number type."""
    return Row(**{name: _TYPES[name](values[name]) for name in columns})


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

    max_records, max_residues: bounds of a chunk; by default `CHUNK_RECORDS` and `CHUNK_RESIDUES`.
    halvings: how many times the bounds of the first chunk are halved; of each next one, once less.

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

    items: all items from the start of some chunk on, at or before the shard's first item.
    cost, total: cost of an item, and of all items of the input.
    by_chunk: cut only between chunks, so that batches are the same as in an unsharded run.
    done: cost of the items before `items`.
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


@dataclass(frozen=True, slots=True)
class Piece:
    """What goes through the model at once: a whole record, or one window of it."""

    record: int  # index of the record in its chunk
    # Residues of the record that it covers, from 0; `stop` is not included.
    start: int
    stop: int
    fresh: int  # number of its residues that no earlier piece of the record covers

    @property
    def length(self) -> int:
        """Count of residues."""
        return self.stop - self.start


def embedded_length(length: int, rules: Rules) -> int:
    """Count the residues that the embedding of a record of this length covers."""
    return min(length, rules.max_length) if rules.long == "truncate" else length


def cut(record: int, length: int, rules: Rules) -> list[Piece]:
    """Cut a record into its pieces, in order. Most records are one piece.

    Windows of a long record all have `max_length` residues, start at even distances and overlap by at least
    `overlap` residues.

    >>> rules = Rules(max_length=10, overlap=4)
    >>> [(piece.start, piece.stop) for piece in cut(0, 20, rules)]
    [(0, 10), (5, 15), (10, 20)]
    """
    if length <= rules.max_length or rules.long != "window":
        embedded = embedded_length(length, rules)
        return [Piece(record, 0, embedded, embedded)]
    beyond = length - rules.max_length
    steps = -(-beyond // (rules.max_length - rules.shared))
    starts = [beyond * step // steps for step in range(steps + 1)]
    fresh = [rules.max_length, *(stop - start for start, stop in pairwise(starts))]
    return [
        Piece(record, start, start + rules.max_length, new) for start, new in zip(starts, fresh, strict=True)
    ]


def blend(pieces: Sequence[Piece]) -> list[npt.NDArray[np.float32]]:
    """Compute the weight of each piece at each residue that it covers.

    A window's weight falls linearly towards its edges, where the model saw the least context. The weights at
    a residue add up to 1: a residue covered by a single piece takes its whole vector from that piece.

    Returns one float32 array (piece.length,) per piece.
    """
    if len(pieces) == 1:
        return [np.ones(pieces[0].length, np.float32)]
    raw = [np.minimum(np.arange(1, p.length + 1), np.arange(p.length, 0, -1)) for p in pieces]
    total = np.zeros(max(piece.stop for piece in pieces))
    for piece, weight in zip(pieces, raw, strict=True):
        total[piece.start : piece.stop] += weight
    return [
        (weight / total[piece.start : piece.stop]).astype(np.float32)
        for piece, weight in zip(pieces, raw, strict=True)
    ]


def token_counts(length: int, rules: Rules) -> list[int]:
    """Count the tokens of each piece of a record, with `<cls>` and `<eos>`; empty for a skipped record."""
    if not length:
        return []
    return [piece.length + 2 for piece in cut(0, length, rules)]


def cost(length: int, rules: Rules, width: int) -> int:
    """Cost of embedding a record: 6 D + T per token of a piece of T tokens, in units of 4 D operations.

    A layer takes 24 D² + 4 T D operations per token (ESM-2's layers; D is the width of the model).
    """
    tokens = token_counts(length, rules)
    return total_cost(sum(tokens), sum(count**2 for count in tokens), width)


def total_cost(n_tokens: int, n_scores: int, width: int) -> int:
    """Cost of any number of pieces from their tokens and attention scores per head, in the unit of `cost`."""
    return 6 * width * n_tokens + n_scores


def pack(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Pack pieces into batches, longest first.

    A piece with less than half the tokens of the longest in the batch starts a new batch. Only attention is
    padded, and so never to more than twice a piece's width.

    lengths: residues of each piece. With `<cls>` and `<eos>` a piece takes `length + 2` tokens.
    max_tokens: token budget of a batch. A longer piece runs alone.

    Returns batches of indices into `lengths`, each index once. Equal lengths keep their order.

    >>> pack([5, 8, 6, 2], max_tokens=20)
    [[1, 2], [0, 3]]
    """
    packed: list[list[int]] = []
    longest = used = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        tokens = lengths[index] + 2
        if not packed or used + tokens > max_tokens or 2 * tokens < longest:
            packed.append([])
            longest, used = tokens, 0
        packed[-1].append(index)
        used += tokens
    return packed
