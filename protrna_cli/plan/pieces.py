"""Pieces: cut long records into windows, join windows again, and pack pieces into batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from protrna_cli.plan.rules import Rules


@dataclass(frozen=True, slots=True)
class Piece:
    """What goes through the model at once: a whole record, or one window of it.

    Attributes
    ----------
    record
        Index of the record in its chunk.
    start, stop
        Residues of the record that it covers, from 0; `stop` is not included.
    fresh
        Number of its residues that no earlier piece of the record covers.
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

    Returns
    -------
    list
        One float32 array (piece.length,) per piece.
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
    return total_cost(sum(tokens), sum(each**2 for each in tokens), width)


def total_cost(n_tokens: int, n_scores: int, width: int) -> int:
    """Cost of any number of pieces from their tokens and attention scores per head, in the unit of `cost`."""
    return 6 * width * n_tokens + n_scores


def pack(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Pack pieces into batches, longest first.

    A piece with less than half the tokens of the longest in the batch starts a new batch. Only attention is
    padded, and so never to more than twice a piece's width.

    Parameters
    ----------
    lengths
        Residues of each piece. With `<cls>` and `<eos>` a piece takes `length + 2` tokens.
    max_tokens
        Token budget of a batch. A longer piece runs alone.

    Returns
    -------
    list
        Batches of indices into `lengths`, each index once. Equal lengths keep their order.

    >>> pack([5, 8, 6, 2], max_tokens=20)
    [[1, 2], [0, 3]]
    """
    packed: list[list[int]] = []
    longest = used = 0
    for place in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        tokens = lengths[place] + 2
        if not packed or used + tokens > max_tokens or 2 * tokens < longest:
            packed.append([])
            longest, used = tokens, 0
        packed[-1].append(place)
        used += tokens
    return packed
