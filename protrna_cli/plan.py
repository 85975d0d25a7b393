"""Pure arithmetic: which records are held together, how long ones are cut, and which pieces run together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from protrna_cli.rules import Rules
from protrna_cli.shard import Shard

WINDOW_RECORDS = 4096
WINDOW_RESIDUES = 1 << 20

WINDOWS_A_SHARD = 16
"""Windows that a shard must have to be cut between windows: then its cost is off by some percent."""


class HasLength(Protocol):
    """Anything counted in residues."""

    @property
    def length(self) -> int:
        """Count of residues."""


_R = TypeVar("_R", bound=HasLength)


def windows(
    records: Iterable[_R], max_records: int = WINDOW_RECORDS, max_residues: int = WINDOW_RESIDUES
) -> Iterator[list[_R]]:
    """Cut records into windows: bounded runs of consecutive records.

    A window ends before the record that would break a bound; a record longer than `max_residues` is a
    window of its own.
    """
    window: list[_R] = []
    residues = 0
    for record in records:
        if window and (len(window) == max_records or residues + record.length > max_residues):
            yield window
            window, residues = [], 0
        window.append(record)
        residues += record.length
    if window:
        yield window


def sliced(
    items: Iterable[_R],
    shard: Shard,
    cost: Callable[[_R], int],
    total: int,
    by_window: bool,
    done: int = 0,
) -> Iterator[_R]:
    """Take a shard's slice: consecutive items, of like cost from shard to shard.

    Nothing is asked of `items` once one came that is beyond the shard.

    Parameters
    ----------
    items
        All items from the first of some window on, which is not behind the shard's first item.
    cost, total
        What an item costs, and all of them together.
    by_window
        Cut between windows only, so that every batch is what it is in the whole run.
    done
        What the items before these cost.
    """
    for group in windows(items) if by_window else ([item] for item in items):
        costs = sum(cost(item) for item in group)
        # The last item may cost nothing and stand at the very end.
        before = min(done, total - 1)
        if shard.holds(before, costs, total):
            yield from group
        elif shard.ends_before(before, costs, total):
            return
        done += costs


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of residues of one record that goes through the model at once.

    Attributes
    ----------
    record
        Place of the record in its window.
    start, stop
        Residues of the record, from 0; `stop` is not among them.
    fresh
        Residues that no earlier piece of the record covers.
    """

    record: int
    start: int
    stop: int
    fresh: int

    @property
    def length(self) -> int:
        """Count of residues."""
        return self.stop - self.start


def embedded_length(length: int, rules: Rules) -> int:
    """Residues of a record of this length that its embedding speaks of."""
    return min(length, rules.max_length) if rules.long == "truncate" else length


def cut(record: int, length: int, rules: Rules) -> list[Piece]:
    """Cut a record into the pieces in which it runs, in order; most records are one piece.

    Pieces of a `window`ed record all have `max_length` residues, start at even distances and share `overlap`
    residues or more.

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
    """Share of each piece in the residues that it covers.

    A piece's share falls linearly towards its edges, where the model saw least of the surroundings, and the
    shares in a residue add up to 1: a residue that one piece alone covers is all that piece's.

    Returns
    -------
    list
        One float32 array (piece.length,) a piece.
    """
    if len(pieces) == 1:
        return [np.ones(pieces[0].length, np.float32)]
    raw = [np.minimum(np.arange(1, p.length + 1), np.arange(p.length, 0, -1)) for p in pieces]
    total = np.zeros(max(piece.stop for piece in pieces))
    for piece, share in zip(pieces, raw, strict=True):
        total[piece.start : piece.stop] += share
    return [
        (share / total[piece.start : piece.stop]).astype(np.float32)
        for piece, share in zip(pieces, raw, strict=True)
    ]


def token_counts(length: int, rules: Rules) -> list[int]:
    """Tokens of each piece of a record, `<cls>` and `<eos>` among them; none for what is left out."""
    if not length:
        return []
    return [piece.length + 2 for piece in cut(0, length, rules)]


def cost(length: int, rules: Rules, width: int) -> int:
    """What a record costs to embed, in operations over 4 D: 6 D + T for each of the T tokens of each piece.

    A layer takes 24 D² + 4 T D operations a token (ESM-2's layers, D the width).
    """
    return sum(tokens * (6 * width + tokens) for tokens in token_counts(length, rules))


def batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Pack pieces into batches, longest first.

    A piece of less than half the tokens of the batch's longest starts another batch: attention alone is
    padded, and it is never made more than twice as wide.

    Parameters
    ----------
    lengths
        Residues of each piece; with `<cls>` and `<eos>` a piece takes `length + 2` tokens.
    max_tokens
        Budget of a batch in tokens. A piece beyond it runs alone.

    Returns
    -------
    list
        The places in `lengths`, each once, batch by batch; equal lengths keep their order.

    >>> batches([5, 8, 6, 2], max_tokens=20)
    [[1, 2], [0, 3]]
    """
    packed: list[list[int]] = []
    longest = held = 0
    for place in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        tokens = lengths[place] + 2
        if not packed or held + tokens > max_tokens or 2 * tokens < longest:
            packed.append([])
            longest, held = tokens, 0
        packed[-1].append(place)
        held += tokens
    return packed
