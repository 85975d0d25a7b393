"""The rules of a run: what happens to gaps, invalid letters, long records and regions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from protrna_cli.errors import UsageError
from protrna_cli.plan.values import check_options, choice, flag, instance, number, option

TRAINED_LENGTH = 510
"""Residues of the longest sequence that the model was trained on."""

OnInvalid = Literal["error", "unknown", "skip"]
Gaps = Literal["error", "remove", "unknown"]
Long = Literal["window", "truncate", "error", "skip", "whole"]
ON_INVALID, GAPS, LONG = map(get_args, (OnInvalid, Gaps, Long))


@dataclass(frozen=True, slots=True)
class Region:
    """A named range of residues of one record.

    Attributes
    ----------
    name
        Not empty; names may repeat.
    start, stop
        Residues of the record, from 0; `stop` is greater than `start` and not included.
    line
        Line number in the BED file.
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
        Path as the user gave it, and SHA-256 of the file.
    by_id
        Regions by record id, in file order.
    """

    file: str
    sha256: str
    by_id: dict[str, list[Region]]

    @property
    def origin(self) -> dict[str, str]:
        """Name (without folders) and SHA-256 of the file."""
        return {"name": Path(self.file).name, "sha256": self.sha256}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Regions:
        """Restore regions from the parsed JSON of `dataclasses.asdict`."""
        by_id = {name: [Region(**each) for each in of] for name, of in fields["by_id"].items()}
        return cls(**{**fields, "by_id": by_id})


def _regions(name: str, value: object) -> object:
    instance(name, value, Regions, "the result of protrna_cli.fasta.bed.read_bed")
    return value


@dataclass(frozen=True)
class Rules:
    """How records are read and cut. Defaults are those of the command line.

    Attributes
    ----------
    on_invalid
        What to do with a letter that is neither residue nor gap, or a record without residues: `error`;
        `unknown` reads the letter as an unknown residue (a record without residues stays an error); `skip`
        leaves the record out. Lines of dot-bracket structure are an error in any case.
    gaps
        `error`, `remove` them, or read them as `unknown` residues.
    long
        What to do with a record of more than `max_length` residues: `window` covers it with overlapping
        windows, `truncate` embeds its start, `error`, `skip`, or `whole` to run it in one piece.
    max_length
        Residues of the longest piece.
    overlap
        Least number of residues that neighbouring windows share; by default a quarter of `max_length`.
    skip_unknown
        Leave unknown residues out of means. A record or region without a known residue is then invalid.
    regions
        Make one pooled row per region instead of one per record. Records without a region are skipped.

    Raises
    ------
    UsageError
        A value is not one that its option takes: `max_length` is 2 or more, `overlap` from 1 to
        `max_length` - 1 and only for `window`.
    """

    on_invalid: OnInvalid = choice(ON_INVALID, "error", "What to do with a letter that is not RNA or DNA.")
    gaps: Gaps = choice(GAPS, "error", "What to do with gaps: - . and ~")
    long: Long = choice(LONG, "window", "How to embed longer records; whole: in one piece.")
    max_length: int = number(TRAINED_LENGTH, "Longest piece, in residues.")
    overlap: int | None = number(None, "Residues that windows share.  [default: a quarter]")
    skip_unknown: bool = flag("Leave unknown residues out of the mean.")
    regions: Regions | None = option(
        None, "path", "One vector per region of a BED file.", _regions, metavar="BED"
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.max_length < 2:
            raise UsageError(f"--max-length {self.max_length} is too short; give 2 or more")
        if not 1 <= self.shared < self.max_length:
            raise UsageError(
                f"--overlap {self.shared} must be at least 1 and less than --max-length {self.max_length}"
            )
        if self.overlap is not None and self.long != "window":
            raise UsageError(f"--overlap is for --long window, not for --long {self.long}; leave it out")

    @property
    def shared(self) -> int:
        """Least number of residues that neighbouring windows share."""
        return max(1, self.max_length // 4) if self.overlap is None else self.overlap


DEFAULT_RULES = Rules()
