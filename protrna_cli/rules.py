"""The rules of a run: what becomes of letters and records that the model does not read as they are, and of
which residues a row speaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protrna_cli.errors import UsageError

if TYPE_CHECKING:
    from protrna_cli.regions import Regions

TRAINED_LENGTH = 510
"""Residues of the longest sequence that the model was trained on."""

ON_INVALID = ("error", "unknown", "skip")
GAPS = ("error", "remove", "unknown")
LONG = ("window", "truncate", "error", "skip", "whole")


@dataclass(frozen=True)
class Rules:
    """What becomes of what; the defaults are the command line's.

    Attributes
    ----------
    on_invalid
        A letter that is neither residue nor gap, or a record without residues: `error`; `unknown` reads the
        letter as an unknown residue (a record without residues stays an error); `skip` leaves the record out.
    gaps
        `error`, `remove` them, or read them as `unknown` residues.
    long
        A record of more than `max_length` residues: `window` covers it with overlapping pieces, `truncate`
        embeds its start, `error`, `skip`, or `whole`, in one piece.
    max_length
        Residues of the longest piece.
    overlap
        Residues that neighbouring pieces share, at the least; by default a quarter of `max_length`.
    skip_unknown
        Leave unknown residues out of a mean. A record, or a region, without a known residue is invalid.
    regions
        One pooled row a region, not one a record. A record without a region is left out.

    Raises
    ------
    UsageError
        The numbers leave no room for a piece, or no overlap to join pieces by.
    """

    on_invalid: str = "error"
    gaps: str = "error"
    long: str = "window"
    max_length: int = TRAINED_LENGTH
    overlap: int | None = None
    skip_unknown: bool = False
    regions: Regions | None = None

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise UsageError(f"--max-length {self.max_length} leaves no room for a piece; give 2 or more")
        if not 1 <= self.shared < self.max_length:
            raise UsageError(
                f"--overlap {self.shared} must be at least 1 and less than --max-length {self.max_length}"
            )

    @property
    def shared(self) -> int:
        """Residues that neighbouring pieces share, at the least."""
        return max(1, self.max_length // 4) if self.overlap is None else self.overlap


DEFAULT_RULES = Rules()
