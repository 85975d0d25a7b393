"""One chunk of records: which of them run, in which pieces and batches, and where their vectors belong.

Legend: B batch, T tokens, L embedded residues of a record, l residues of a piece, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from protrna_cli.fasta.copies import Copies
from protrna_cli.fasta.records import UNKNOWN, Record, Skipped
from protrna_cli.model.alphabet import Alphabet, Tokens
from protrna_cli.plan.pieces import Piece, blend, cut, embedded_length, pack
from protrna_cli.plan.rules import Rules
from protrna_cli.run.report import Amount
from protrna_cli.text import shortened

Floats = npt.NDArray[np.float32]

RESIDUES = "residues"
"""The pooling that keeps one vector per residue."""


class Chunk:
    """One chunk of an input; a record is an index in it.

    Attributes
    ----------
    number
        Its number in the input, from 0.
    records, skipped
        Its records, and those that are left out.
    running, copied
        As in `Assignment`.
    pieces, batches
        The pieces that run, and the batches in which they run: each batch is a list of indices into `pieces`.
    """

    def __init__(
        self,
        number: int,
        items: Sequence[Record | Skipped],
        copies: Copies,
        rules: Rules,
        max_tokens: int,
    ) -> None:
        self.number = number
        self.records = [item for item in items if isinstance(item, Record)]
        self.skipped = [item for item in items if isinstance(item, Skipped)]
        self.running, self.copied, self.n_reused, self._starts = copies.assign(self.records)
        self._rules, self._max_tokens = rules, max_tokens

    @cached_property
    def _cuts(self) -> dict[int, list[Piece]]:
        return {record: cut(record, self.records[record].length, self._rules) for record in self.running}

    @cached_property
    def pieces(self) -> list[Piece]:
        return [piece for pieces in self._cuts.values() for piece in pieces]

    @cached_property
    def batches(self) -> list[list[int]]:
        return pack([piece.length for piece in self.pieces], self._max_tokens)

    @cached_property
    def _shares(self) -> list[Floats]:
        return [share for pieces in self._cuts.values() for share in blend(pieces)]

    def amount(self, batches: Sequence[list[int]] | None = None) -> Amount:
        """Count the records that run, and their residues; or of these batches only."""
        if batches is None:
            lengths = [self.embedded(record) for record in self.running]
            return Amount(len(lengths), sum(lengths))
        return sum((self.amount_of(i) for batch in batches for i in batch), Amount())

    def amount_of(self, i: int) -> Amount:
        """Count what piece `i` adds: residues, and with its last piece the record. Copies do not count."""
        piece = self.pieces[i]
        return Amount(int(piece.stop == self.embedded(piece.record)), piece.fresh)

    def span(self, record: int, per_token: bool) -> tuple[int, int]:
        """Where the vectors of a record are in an output: the index of the first, and that after the last."""
        return self._starts[record][per_token], self._starts[record + 1][per_token]

    def embedded(self, record: int) -> int:
        """Count the embedded residues of a record."""
        return embedded_length(self.records[record].length, self._rules)

    def n_pieces(self, i: int) -> int:
        """Count the pieces of the record that piece `i` belongs to."""
        return len(self._cuts[self.pieces[i].record])

    def share(self, i: int) -> Floats:
        """Share (l,) of piece `i` in each residue that it covers."""
        return self._shares[i]

    def name(self, record: int) -> str:
        """Name a record for a message."""
        return f"record {self.records[record].number} (id {shortened(self.records[record].id)})"

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
        letters = (self.records[piece.record].sequence[piece.start : piece.stop] for piece in pieces)
        tokens = alphabet.frame([alphabet.residue_ids(text) for text in letters])
        weights = np.zeros(tokens.shape, np.float32)
        for row, i in zip(weights, batch, strict=True):
            piece, share = self.pieces[i], self._shares[i]
            mask = self.mean_mask(piece.record)
            row[1 : len(share) + 1] = share * mask[piece.start : piece.stop] / int(mask.sum())
        return tokens, weights

    def mean_mask(self, record: int) -> npt.NDArray[np.bool_]:
        """Mark the embedded residues (L,) of a record that count in its mean: all, or only the known ones."""
        if not self._rules.skip_unknown:
            return np.ones(self.embedded(record), bool)
        letters = self.records[record].sequence[: self.embedded(record)]
        return np.not_equal(np.frombuffer(letters.encode(), np.uint8), ord(UNKNOWN))
