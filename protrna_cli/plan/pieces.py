"""Pieces: how long records are cut into windows, how windows are joined, and which pieces run together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from protrna_cli.plan.rules import Rules


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of residues of one record that goes through the model at once: all of it, or a window.

    Attributes
    ----------
    record
        Place of the record in its chunk.
    start, stop
        Residues of the record, from 0; `stop` is not included.
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
    """Count the residues of a record of this length that its embedding covers."""
    return min(length, rules.max_length) if rules.long == "truncate" else length


def cut(record: int, length: int, rules: Rules) -> list[Piece]:
    """Cut a record into the pieces in which it runs, in order; most records are one piece.

    Windows of a long record all have `max_length` residues, start at even distances and share `overlap`
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
    """Weigh each piece of a record in the residues that it covers.

    A window's share falls linearly towards its edges, where the model saw least of the context. The shares
    in a residue add up to 1: a residue covered by one piece alone takes all of its vector from that piece.

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
    """Count the tokens of each piece of a record, with `<cls>` and `<eos>`; empty for a skipped record."""
    if not length:
        return []
    return [piece.length + 2 for piece in cut(0, length, rules)]


def cost(length: int, rules: Rules, width: int) -> int:
    """Count what a record costs to embed, in operations over 4 D: 6 D + T a token of a piece of T tokens.

    A layer takes 24 D² + 4 T D operations a token (ESM-2's layers; D is the width of the model).
    """
    return sum(tokens * (6 * width + tokens) for tokens in token_counts(length, rules))


def pack(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Pack pieces into batches, longest first.

    A piece with less than half the tokens of the batch's longest starts another batch: attention alone is
    padded, and so never to more than twice the width.

    Parameters
    ----------
    lengths
        Residues of each piece; with `<cls>` and `<eos>` a piece takes `length + 2` tokens.
    max_tokens
        Token budget of a batch. A piece beyond it runs alone.

    Returns
    -------
    list
        The places in `lengths`, each once, batch by batch; equal lengths keep their order.

    >>> pack([5, 8, 6, 2], max_tokens=20)
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
