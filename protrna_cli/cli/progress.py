"""Progress of runs and downloads on stderr: a bar, plain lines for log files, or JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from protrna_cli.api.keywords import Bar
from protrna_cli.cli.messages import say
from protrna_cli.machine import resident_memory
from protrna_cli.run.report import NOTHING, Amount, Progress
from protrna_cli.text import counted
from protrna_cli.weights.checkpoint import Watcher, announcement

if TYPE_CHECKING:
    from tqdm import tqdm

LINE_SECONDS = 60.0
JSON_SECONDS = 5.0


class Notes(Progress):
    """Prints messages, unless `quiet`, but no progress."""

    quiet = False

    def note(self, text: str) -> None:
        if not self.quiet:
            say(f"note: {text}")


class NotingBar(Notes, Bar):
    """A progress bar that also prints messages."""


class Meter(Notes):
    """Counts progress and prints it every `every` seconds."""

    def __init__(self, every: float) -> None:
        self._every = every

    def start(self, total: Amount, resumed: Amount = NOTHING) -> None:
        self._total, self._resumed, self._ran = total, resumed, NOTHING
        self._started = self._last_shown = time.monotonic()
        self._first, self._first_done = NOTHING, 0.0

    def resume(self, amount: Amount) -> None:
        self._resumed += amount

    def advance(self, amount: Amount) -> None:
        now = time.monotonic()
        if self._ran == NOTHING:
            self._first, self._first_done = amount, now
        self._ran += amount
        if now - self._last_shown >= self._every:
            self._last_shown = now
            self.show()

    @property
    def done(self) -> Amount:
        """What is embedded, by this process and earlier ones."""
        return self._resumed + self._ran

    def rate(self) -> float:
        """Residues per second in this process, without resumed work."""
        seconds = time.monotonic() - self._started
        return self._ran.residues / seconds if seconds else 0.0

    def seconds_left(self) -> float | None:
        """Estimated seconds for the rest; None before anything is done.

        The first batch reads the weights and compiles: it counts until others took half as long.
        """
        now, rate = time.monotonic(), self.rate()
        if now - self._first_done > (self._first_done - self._started) / 2 and self._ran != self._first:
            rate = (self._ran - self._first).residues / (now - self._first_done)
        return (self._total - self.done).residues / rate if rate else None

    def show(self) -> None:
        """Print the progress."""


class Lines(Meter):
    """One line every `every` seconds, for log files."""

    def show(self) -> None:
        line = f"{self.done.records:,} of {counted(self._total.records, 'record')}"
        left = self.seconds_left()
        if left is not None:
            line += f", {self.rate():,.0f} residues/s, {counted(ceil(left / 60), 'minute')} left"
        say(line)


class JsonLines(Meter):
    """One JSON object per line: at the start, every `every` seconds, and at the end."""

    def start(self, total: Amount, resumed: Amount = NOTHING) -> None:
        super().start(total, resumed)
        self.show()

    def close(self) -> None:
        self.show()

    def show(self) -> None:
        left = self.seconds_left()
        fields = {
            "records_done": self.done.records,
            "records_total": self._total.records,
            "residues_done": self.done.residues,
            "residues_total": self._total.residues,
            "residues_per_second": round(self.rate(), 1),
            "elapsed_seconds": round(time.monotonic() - self._started, 1),
            "eta_seconds": None if left is None else round(left, 1),
            "rss_bytes": resident_memory(),
        }
        click.echo(json.dumps(fields), err=True)


def progress_for(kind: str, quiet: bool) -> Progress:
    """Choose the progress for a value of `--progress`: `auto` is a bar on a terminal, lines in a log file."""
    if kind == "auto":
        kind = "none" if quiet else "bar" if sys.stderr.isatty() else "lines"
    if kind == "bar":
        from tqdm import tqdm  # imported where it is used: --help must not wait for it

        progress: Notes = NotingBar(tqdm)
    elif kind == "json":
        progress = JsonLines(JSON_SECONDS)
    else:
        progress = Lines(LINE_SECONDS) if kind == "lines" else Notes()
    progress.quiet = quiet
    return progress


class Download(Watcher):
    """Prints the announcement of a download and, with `bar`, a progress bar."""

    def __init__(self, bar: bool) -> None:
        self._bar_wanted = bar
        self._bar: tqdm[Any] | None = None

    def start(self, address: str, target: Path, total: int | None, done: int) -> None:
        say(announcement(address, target, total, done))
        if self._bar_wanted:
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                initial=done,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                file=sys.stderr,
                dynamic_ncols=True,
            )

    def advance(self, size: int) -> None:
        if self._bar is not None:
            self._bar.update(size)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def note(self, text: str) -> None:
        self.close()
        say(text)


def watcher_for(progress: str, quiet: bool) -> Watcher:
    """Choose the download progress for a value of `--progress`; none if `quiet`."""
    bar = progress == "bar" or (progress == "auto" and sys.stderr.isatty())
    return Watcher() if quiet else Download(bar)
