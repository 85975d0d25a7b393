"""The rules of a run: how letters and records are read that the model does not read as they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protrna_cli.errors import UsageError

TRAINED_LENGTH = 510
"""Residues of the longest sequence that the model was trained on."""

ON_INVALID = ("error", "unknown", "skip")
GAPS = ("error", "remove", "unknown")
LONG = ("window", "truncate", "error", "skip", "whole")


@dataclass(frozen=True, slots=True)
class Region:
    """A named run of residues of one record.

    Attributes
    ----------
    name
        Not empty; names may repeat.
    start, stop
        Residues of the record, from 0; `stop` is not included, and greater than `start`.
    line
        Line of the BED file.
    """

    name: str
    start: int
    stop: int
    line: int

    @property
    def length(self) -> int:
        """Count of residues."""
        return self.stop - self.start


@dataclass(frozen=True)
class Regions:
    """The regions of a BED file.

    Attributes
    ----------
    file, sha256
        The file as the user named it, and the SHA-256 of its bytes.
    by_id
        Regions of each record, in the order of the file, by the record's id.
    """

    file: str
    sha256: str
    by_id: dict[str, list[Region]]

    @property
    def origin(self) -> dict[str, str]:
        """Name, without its folders, and SHA-256 of the file."""
        return {"name": Path(self.file).name, "sha256": self.sha256}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Regions:
        """Restore regions from the JSON of `dataclasses.asdict`."""
        by_id = {name: [Region(**each) for each in of] for name, of in fields["by_id"].items()}
        return cls(**{**fields, "by_id": by_id})


@dataclass(frozen=True)
class Rules:
    """How records are read and cut; the defaults are the command line's.

    Attributes
    ----------
    on_invalid
        A letter that is neither residue nor gap, or a record without residues: `error`; `unknown` reads the
        letter as an unknown residue (a record without residues stays an error); `skip` leaves the record out.
    gaps
        `error`, `remove` them, or read them as `unknown` residues.
    long
        A record of more than `max_length` residues: `window` covers it with overlapping windows, `truncate`
        embeds its start, `error`, `skip`, or `whole`, in one piece.
    max_length
        Residues of the longest piece.
    overlap
        Residues that neighbouring windows share, at least; by default a quarter of `max_length`.
    skip_unknown
        Leave unknown residues out of a mean. A record, or a region, without a known residue is invalid.
    regions
        One pooled row a region, not one a record. A record without a region is left out.

    Raises
    ------
    UsageError
        `max_length` leaves no room for a piece, or `overlap` is not between 1 and `max_length` - 1.
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
        """Residues that neighbouring windows share, at least."""
        return max(1, self.max_length // 4) if self.overlap is None else self.overlap


DEFAULT_RULES = Rules()
