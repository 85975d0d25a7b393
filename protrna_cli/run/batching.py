"""The batches of one chunk, and how pieces are joined into records.

Legend: B batch, T tokens, L embedded residues of a record, l residues of a piece, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from protrna_cli.fasta.records import UNKNOWN, Record
from protrna_cli.model.alphabet import Alphabet, Tokens
from protrna_cli.plan.pieces import blend, cut, pack
from protrna_cli.plan.rules import Rules
from protrna_cli.text import shortened

Floats = npt.NDArray[np.float32]

RESIDUES = "residues"
"""The pooling that keeps one vector per residue."""


class ChunkBatches:
    """One chunk as the model sees it: the records that run, cut into pieces, packed into batches.

    Parameters
    ----------
    records
        The records of the chunk.
    running
        Indices of the records that run.

    Attributes
    ----------
    pieces, batches
        The pieces to run, and the batches in which they run: each batch is a list of indices into `pieces`.
    """

    def __init__(
        self, records: Sequence[Record], running: Iterable[int], rules: Rules, max_tokens: int
    ) -> None:
        self._records = records
        self._skip_unknown = rules.skip_unknown
        cuts = {place: cut(place, records[place].length, rules) for place in running}
        self.pieces = [piece for pieces in cuts.values() for piece in pieces]
        self.batches = pack([piece.length for piece in self.pieces], max_tokens)
        self._shares = [share for pieces in cuts.values() for share in blend(pieces)]
        self._piece_counts = {place: len(pieces) for place, pieces in cuts.items()}
        self._lengths = {place: pieces[-1].stop for place, pieces in cuts.items()}

    def piece_count(self, i: int) -> int:
        """Count the pieces of the record that piece `i` belongs to."""
        return self._piece_counts[self.pieces[i].record]

    def embedded(self, record: int) -> int:
        """Count the embedded residues of a record."""
        return self._lengths[record]

    def name(self, record: int) -> str:
        """Name a record for a message."""
        return f"record {self._records[record].number} (id {shortened(self._records[record].id)})"

    def share(self, i: int) -> Floats:
        """Share (l,) of piece `i` in each residue that it covers."""
        return self._shares[i]

    def token_counts(self, batch: list[int]) -> list[int]:
        """Count the tokens of each piece of a batch, with `<cls>` and `<eos>`."""
        return [self.pieces[i].length + 2 for i in batch]

    def split(self, batch: list[int], fits: int) -> list[list[int]]:
        """Split a batch in halves until each has at most `fits` tokens, or one piece; 0 is no bound."""
        if not fits or len(batch) == 1 or sum(self.token_counts(batch)) <= fits:
            return [batch]
        half = len(batch) // 2
        return [*self.split(batch[:half], fits), *self.split(batch[half:], fits)]

    def tokens(self, batch: list[int], alphabet: Alphabet) -> tuple[Tokens, Floats]:
        """Make the tokens (B, T) of a batch, and the weight (B, T) of each token in its record's mean."""
        pieces = [self.pieces[i] for i in batch]
        letters = (self._records[piece.record].sequence[piece.start : piece.stop] for piece in pieces)
        tokens = alphabet.frame([alphabet.residue_ids(each) for each in letters])
        weights = np.zeros(tokens.shape, np.float32)
        for row, i in zip(weights, batch, strict=True):
            piece, share = self.pieces[i], self._shares[i]
            mask = self.mean_mask(piece.record)
            row[1 : len(share) + 1] = share * mask[piece.start : piece.stop] / int(mask.sum())
        return tokens, weights

    def mean_mask(self, record: int) -> npt.NDArray[np.bool_]:
        """Mark the embedded residues (L,) of a record that count in its mean: all, or only the known ones."""
        if not self._skip_unknown:
            return np.ones(self.embedded(record), bool)
        letters = self._records[record].sequence[: self.embedded(record)]
        return np.not_equal(np.frombuffer(letters.encode(), np.uint8), ord(UNKNOWN))


class Joiner:
    """Joins the pieces of a record; most records are one piece, which needs no joining.

    Attributes
    ----------
    pooling
        `mean`, `max`, `cls`, or `residues`.
    """

    def __init__(self, chunk: ChunkBatches, pooling: str) -> None:
        self._chunk = chunk
        self.pooling = pooling
        self._open: dict[int, list[Floats]] = {}
        self._missing: dict[int, int] = {}

    @property
    def idle(self) -> bool:
        """Whether no record is waiting for more pieces."""
        return not self._open

    def add(self, i: int, vectors: list[Floats]) -> list[Floats] | None:
        """Take the vectors of piece `i`.

        Parameters
        ----------
        vectors
            One array per layer: (1, D), or (l, D) per token and for the maximum of a record in pieces.

        Returns
        -------
        list or None
            The record's vectors, (1, D) or (L, D) per layer, if this was its last piece; otherwise None.
        """
        piece, count = self._chunk.pieces[i], self._chunk.piece_count(i)
        if count > 1:
            length, span = self._chunk.embedded(piece.record), slice(piece.start, piece.stop)
            if self.pooling in ("mean", "cls"):
                length, span = 1, slice(0, 1)
            # The weights of a mean include the shares; a record's <cls> vector is the mean over its pieces.
            factor = {"mean": 1.0, "cls": 1 / count}.get(self.pooling, self._chunk.share(i)[:, None])
            whole = self._open.setdefault(
                piece.record, [np.zeros((length, each.shape[1]), np.float32) for each in vectors]
            )
            for joined, part in zip(whole, vectors, strict=True):
                joined[span] += factor * part
            self._missing[piece.record] = self._missing.get(piece.record, count) - 1
            if self._missing[piece.record]:
                return None
            vectors = self._open.pop(piece.record)
        if self.pooling == "max":
            return [each.max(axis=0, keepdims=True) for each in vectors]
        return vectors
