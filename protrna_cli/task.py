"""The work of one window: pieces of its sequences, in batches; and how pieces become records again.

Legend: B batch, T tokens, L embedded residues of a record, l residues of a piece, D width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protrna_cli import plan
from protrna_cli.alphabet import Alphabet, Tokens
from protrna_cli.records import UNKNOWN, Record, shortened
from protrna_cli.rules import Rules

Floats = npt.NDArray[np.float32]


class Task:
    """The work of one window: every different sequence once, cut into pieces, packed into batches.

    Attributes
    ----------
    places
        First record of a sequence to all records of that sequence; places in the window.
    pieces, batches
        What runs, and what runs together: each batch lists places in `pieces`.
    """

    def __init__(self, window: list[Record], rules: Rules, max_tokens: int) -> None:
        self._window = window
        self._skip_unknown = rules.skip_unknown
        self.places: dict[int, list[int]] = {}
        first: dict[str, int] = {}
        for place, record in enumerate(window):
            self.places.setdefault(first.setdefault(record.sequence, place), []).append(place)
        cuts = {place: plan.cut(place, window[place].length, rules) for place in self.places}
        self.pieces = [piece for pieces in cuts.values() for piece in pieces]
        self.batches = plan.batches([piece.length for piece in self.pieces], max_tokens)
        self._shares = [share for pieces in cuts.values() for share in plan.blend(pieces)]
        self._counts = {place: len(pieces) for place, pieces in cuts.items()}
        self._lengths = {place: pieces[-1].stop for place, pieces in cuts.items()}

    def count(self, i: int) -> int:
        """Pieces of the record that piece `i` is of."""
        return self._counts[self.pieces[i].record]

    def embedded(self, record: int) -> int:
        """Embedded residues of a record."""
        return self._lengths[record]

    def name(self, record: int) -> str:
        """What a message calls a record."""
        return f"record {self._window[record].number} (id {shortened(self._window[record].id)})"

    def share(self, i: int) -> Floats:
        """Share (l,) of piece `i` in the residues that it covers."""
        return self._shares[i]

    def tokens(self, batch: list[int], alphabet: Alphabet) -> tuple[Tokens, Floats]:
        """Tokens (B, T) of a batch, and the weight (B, T) of each in its record's mean."""
        pieces = [self.pieces[i] for i in batch]
        letters = (self._window[piece.record].sequence[piece.start : piece.stop] for piece in pieces)
        tokens = alphabet.frame([alphabet.encode(each) for each in letters])
        weights = np.zeros(tokens.shape, np.float32)
        for row, i in zip(weights, batch, strict=True):
            piece, share = self.pieces[i], self._shares[i]
            counted = self.counted(piece.record)
            row[1 : len(share) + 1] = share * counted[piece.start : piece.stop] / int(counted.sum())
        return tokens, weights

    def counted(self, record: int) -> npt.NDArray[np.bool_]:
        """Which embedded residues (L,) of a record count in its mean: all, or those that are known."""
        if not self._skip_unknown:
            return np.ones(self.embedded(record), bool)
        letters = self._window[record].sequence[: self.embedded(record)]
        return np.not_equal(np.frombuffer(letters.encode(), np.uint8), ord(UNKNOWN))


class Joiner:
    """Puts the pieces of a record together; most records are one piece and pass through.

    Attributes
    ----------
    pooling
        `mean`, `max`, `cls`, or `none` for residues.
    """

    def __init__(self, task: Task, pooling: str) -> None:
        self._task = task
        self.pooling = pooling
        self._open: dict[int, list[Floats]] = {}
        self._missing: dict[int, int] = {}

    @property
    def idle(self) -> bool:
        """Whether no record waits for more of its pieces."""
        return not self._open

    def add(self, i: int, vectors: list[Floats]) -> list[Floats] | None:
        """Take what the model made of piece `i`.

        Parameters
        ----------
        vectors
            One array a layer: (1, D), or (l, D) per token and for the maximum of a record in pieces.

        Returns
        -------
        list or None
            The record's vectors, (1, D) or (L, D) a layer, once its last piece is there.
        """
        piece, count = self._task.pieces[i], self._task.count(i)
        if count > 1:
            length, place = self._task.embedded(piece.record), slice(piece.start, piece.stop)
            if self.pooling in ("mean", "cls"):
                length, place = 1, slice(0, 1)
            # A mean's shares are in its weights already; the <cls> of a record is the mean of its pieces'.
            factor = {"mean": 1.0, "cls": 1 / count}.get(self.pooling, self._task.share(i)[:, None])
            whole = self._open.setdefault(
                piece.record, [np.zeros((length, each.shape[1]), np.float32) for each in vectors]
            )
            for joined, part in zip(whole, vectors, strict=True):
                joined[place] += factor * part
            self._missing[piece.record] = self._missing.get(piece.record, count) - 1
            if self._missing[piece.record]:
                return None
            vectors = self._open.pop(piece.record)
        if self.pooling == "max":
            return [each.max(axis=0, keepdims=True) for each in vectors]
        return vectors
