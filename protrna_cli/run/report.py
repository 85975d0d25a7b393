"""What passes between a run and its caller: progress, requests to stop, and a summary. Nothing here prints.

A run stops on SIGTERM, SIGUSR1 (used by batch systems) or Ctrl-C, with its work committed.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from protrna_cli.errors import Interrupted, Stopped
from protrna_cli.text import counted


@dataclass(frozen=True)
class Amount:
    """A number of records, and of their embedded residues.

    >>> str(Amount(1, 76) + Amount(1, 120))
    '2 records (196 residues)'
    """

    records: int = 0
    residues: int = 0

    def __str__(self) -> str:
        return f"{counted(self.records, 'record')} ({counted(self.residues, 'residue')})"

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.records + other.records, self.residues + other.residues)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.records - other.records, self.residues - other.residues)


NOTHING = Amount()


class Progress:
    """Progress callbacks that do nothing; the command line has subclasses that print the progress."""

    def start(self, total: Amount, resumed: Amount = NOTHING) -> None:
        """Start, with the total of the run, and what an earlier process embedded of it."""

    def advance(self, amount: Amount) -> None:
        """Add what this process embedded since the last call: a batch, or a part of one."""

    def resume(self, amount: Amount) -> None:
        """Add what need not run: an earlier process embedded it, or it is a copy."""

    def note(self, text: str) -> None:
        """Receive a message for the user."""

    def close(self) -> None:
        """End, whether the run succeeded or not."""


SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Stop:
    """A source of stop requests that never asks to stop; `SignalStop` listens to signals."""

    def check(self) -> None:
        """Raise `Stopped` if the run was asked to stop."""

    @contextmanager
    def abandoning(self) -> Iterator[None]:
        """Let a stop request interrupt the code in this context at once."""
        yield


class SignalStop(Stop):
    """Listens to signals inside its context, in the main thread.

    Inside `abandoning` a signal raises at once. Elsewhere it waits for the next `check`, so that no work is
    interrupted halfway. A second Ctrl-C raises KeyboardInterrupt at once.
    """

    def __init__(self) -> None:
        self._requested: Stopped | None = None
        self._abandoning = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> SignalStop:
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        if self._requested:
            raise self._requested

    @contextmanager
    def abandoning(self) -> Iterator[None]:
        self.check()
        self._abandoning = True
        try:
            yield
        except Exception:
            # Raised in the middle of a library, our error may have become one of its own: TensorFlow's
            # "Binding inputs to tf.function failed due to ...".
            self.check()
            raise
        finally:
            self._abandoning = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        kind = Interrupted if number == signal.SIGINT else Stopped
        self._requested = self._requested or kind(f"stopped by {signal.Signals(number).name}")
        if self._abandoning:
            raise self._requested


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes
    ----------
    output
        The output file.
    n_records, n_residues, n_unknown
        Records and residues embedded; unknown residues are included.
    n_regions
        Regions of the records, one row each; 0 if each record is one row.
    n_long, long, max_length
        Records longer than `max_length` residues, and the rule for them.
    n_skipped, skipped_list
        Records left out, and the file that lists them.
    computed
        The records that ran, and their residues; the others have the sequence of one that comes first, or of
        one in an earlier output.
    reuses, n_reused
        Whether vectors are taken from earlier outputs, and the records, with copies, whose sequences they
        hold.
    seconds
        Wall time from the first batch to the last, without loading the model.
    device
        What it ran on: `CPU`, or the name of a GPU; empty if nothing was computed.
    resumed
        What an earlier process computed of it; the rest ran in this one.
    already_whole
        Whether the output was already complete, so that nothing ran.
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
    computed: Amount
    reuses: bool
    n_reused: int
    seconds: float
    device: str = ""
    resumed: Amount = NOTHING
    n_regions: int = 0
    already_whole: bool = False

    @property
    def n_resumed(self) -> int:
        """Count of records that an earlier process computed."""
        return self.resumed.records

    @property
    def n_copied(self) -> int:
        """Count of records that got the vectors of another record with the same sequence."""
        return self.n_records - self.n_reused - self.computed.records

    def text(self) -> str:
        """Write the summary in one line."""
        regions = f"{counted(self.n_regions, 'region')} of " if self.n_regions else ""
        parts = [regions + counted(self.n_records, "record"), counted(self.n_residues, "residue")]
        if self.n_unknown:
            parts.append(f"{self.n_unknown:,} of them unknown")
        if self.n_long:
            treatment = {"window": "in windows", "truncate": "CUT", "whole": "in one piece"}[self.long]
            parts.append(f"{counted(self.n_long, 'record')} longer than {self.max_length} {treatment}")
        if self.reuses and not self.already_whole:
            parts.append(f"{self.n_reused:,} reused, {self.n_records - self.n_reused:,} new")
        if self.n_copied and not self.already_whole:
            parts.append(f"{self.computed.records:,} computed, {self.n_copied:,} copied")
        if self.n_skipped:
            parts.append(f"{counted(self.n_skipped, 'record')} SKIPPED (see {self.skipped_list})")
        if self.already_whole:
            return f"{', '.join(parts)}; already complete: {self.output}"
        ran = self.computed - self.resumed
        speed = f"{self.seconds:.1f} s"
        if ran.residues and self.seconds:
            speed += f", {ran.residues / self.seconds:,.0f} residues/s"
        if self.device:
            speed += f" on {self.device}"
        speed += f": {self.output}"
        if self.resumed == NOTHING:
            return f"{', '.join(parts)}; {speed}"
        return f"{', '.join(parts)}; {self.resumed} resumed, {ran} run in {speed}"
