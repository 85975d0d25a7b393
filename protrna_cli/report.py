"""What a run tells: its progress while it works, its summary when it ends. No terminal is known here."""

from __future__ import annotations

from dataclasses import dataclass


class Progress:
    """Told how far a run is. This one keeps silent; the command line has louder ones."""

    def start(self, records: int, residues: int) -> None:
        """Take the totals of the run."""

    def advance(self, records: int, residues: int) -> None:
        """Add what was embedded since the last call."""

    def resume(self, records: int, residues: int) -> None:
        """Add what an earlier process embedded."""
        self.advance(records, residues)

    def note(self, text: str) -> None:
        """Take what the user should know now."""

    def close(self) -> None:
        """End, however the run ended."""


def counted(number: int, noun: str) -> str:
    """Say how many there are of something.

    >>> counted(1, "record"), counted(1400, "record")
    ('1 record', '1,400 records')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def amount(size: float) -> str:
    """Say a number of bytes.

    >>> amount(5_120_000), amount(3 * 2**40)
    ('4.9 MiB', '3,072.0 GiB')
    """
    return f"{size / 2**20:,.1f} MiB" if size < 2**30 else f"{size / 2**30:,.1f} GiB"


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes
    ----------
    output
        The file it made.
    n_records, n_residues, n_unknown
        What was embedded; unknown residues are among the residues.
    n_regions
        Regions of the records, each a row; 0 where the records are the rows.
    n_long, long, max_length
        Records longer than `max_length` residues, and what became of them.
    n_skipped, skipped_list
        Records left out, and the file that lists them.
    n_repeats
        Records whose sequence stood before in their window and ran once with it.
    seconds
        Wall time from the first batch to the last; loading the model is not in it.
    n_resumed
        Rows that an earlier process had embedded.
    already_whole
        Whether the output was there, and nothing was left to do.
    """

    output: str
    n_records: int
    n_residues: int
    n_unknown: int
    n_long: int
    long: str
    max_length: int
    n_skipped: int
    skipped_list: str
    n_repeats: int
    seconds: float
    n_resumed: int = 0
    n_regions: int = 0
    already_whole: bool = False

    def text(self) -> str:
        """Say it in one line."""
        of_what = f"{counted(self.n_regions, 'region')} of " if self.n_regions else ""
        parts = [of_what + counted(self.n_records, "record"), counted(self.n_residues, "residue")]
        if self.n_unknown:
            parts.append(f"{self.n_unknown:,} of them unknown")
        if self.n_long:
            fate = {"window": "in windows", "truncate": "CUT", "whole": "whole"}[self.long]
            parts.append(f"{counted(self.n_long, 'record')} longer than {self.max_length} {fate}")
        if self.n_repeats:
            parts.append(f"{counted(self.n_repeats, 'repeat')} run once")
        if self.n_skipped:
            parts.append(f"{counted(self.n_skipped, 'record')} SKIPPED (see {self.skipped_list})")
        if self.already_whole:
            return f"{', '.join(parts)}; whole already: {self.output}"
        if self.n_resumed:
            return f"{', '.join(parts)}; resumed, {self.seconds:.1f} s: {self.output}"
        rate = self.n_residues / self.seconds if self.seconds else 0.0
        return f"{', '.join(parts)}; {self.seconds:.1f} s, {rate:,.0f} residues/s: {self.output}"
