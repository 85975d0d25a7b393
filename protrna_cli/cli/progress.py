"""Progress of runs and downloads on stderr: a bar, plain lines for log files, or JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from math import ceil
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from protrna_cli.cli.terminal import say
from protrna_cli.machine import resident_memory
from protrna_cli.run.report import Progress
from protrna_cli.text import counted
from protrna_cli.weights.watcher import Watcher, announcement

LINE_SECONDS = 60.0
JSON_SECONDS = 5.0


class Notes(Progress):
    """Prints messages but no progress."""

    def note(self, text: str) -> None:
        say(f"note: {text}")


class Bar(Notes):
    """A progress bar: records, residues per second, time left."""

    def start(self, records: int, residues: int) -> None:
        self._records, self._done = records, 0
        self._bar = tqdm(
            total=residues,
            unit=" residues",
            unit_scale=True,
            file=sys.stderr,
            dynamic_ncols=True,
            bar_format="{desc} {bar} {percentage:3.0f}% {rate_fmt}, {remaining} left",
        )
        self.advance(0, 0)

    def advance(self, records: int, residues: int) -> None:
        self._done += records
        self._bar.set_description_str(f"{self._done:,}/{self._records:,} records", refresh=False)
        self._bar.update(residues)

    def close(self) -> None:
        self._bar.close()


class Meter(Notes):
    """Counts progress and prints it every `every` seconds."""

    def __init__(self, every: float) -> None:
        self._every = every

    def start(self, records: int, residues: int) -> None:
        self._totals = records, residues
        self._done = self._resumed = (0, 0)
        self._started = self._last_shown = time.monotonic()

    def resume(self, records: int, residues: int) -> None:
        self._resumed = self._resumed[0] + records, self._resumed[1] + residues
        self._done = self._done[0] + records, self._done[1] + residues

    def advance(self, records: int, residues: int) -> None:
        self._done = self._done[0] + records, self._done[1] + residues
        if time.monotonic() - self._last_shown >= self._every:
            self._last_shown = time.monotonic()
            self.show()

    def rate(self) -> float:
        """Residues per second in this process, without resumed work."""
        seconds = time.monotonic() - self._started
        return (self._done[1] - self._resumed[1]) / seconds if seconds else 0.0

    def seconds_left(self) -> float | None:
        """Estimated seconds for the rest; None before anything is done."""
        rate = self.rate()
        return (self._totals[1] - self._done[1]) / rate if rate else None

    def show(self) -> None:
        """Print the progress."""


class Lines(Meter):
    """One line every `every` seconds, for log files."""

    def show(self) -> None:
        left = self.seconds_left()
        (done, _), (total, _) = self._done, self._totals
        time_left = "" if left is None else f", {counted(ceil(left / 60), 'minute')} left"
        say(f"{done:,} of {counted(total, 'record')}, {self.rate():,.0f} residues/s{time_left}")


class JsonLines(Meter):
    """One JSON object per line: at the start, every `every` seconds, and at the end."""

    def start(self, records: int, residues: int) -> None:
        super().start(records, residues)
        self.show()

    def close(self) -> None:
        self.show()

    def show(self) -> None:
        left = self.seconds_left()
        fields = {
            "records_done": self._done[0],
            "records_total": self._totals[0],
            "residues_done": self._done[1],
            "residues_total": self._totals[1],
            "residues_per_second": round(self.rate(), 1),
            "elapsed_seconds": round(time.monotonic() - self._started, 1),
            "eta_seconds": None if left is None else round(left, 1),
            "rss_bytes": resident_memory(),
        }
        click.echo(json.dumps(fields), err=True)


def progress_for(kind: str, quiet: bool) -> Progress:
    """Choose the progress for a value of `--progress`: `auto` is a bar on a terminal, lines in a log file."""
    if kind == "auto" and not quiet:
        kind = "bar" if sys.stderr.isatty() else "lines"
    if kind == "bar":
        return Bar()
    if kind == "json":
        return JsonLines(JSON_SECONDS)
    if kind == "lines":
        return Lines(LINE_SECONDS)
    return Progress() if quiet else Notes()


class Download(Watcher):
    """Prints the announcement of a download and, with `bar`, a progress bar."""

    def __init__(self, bar: bool) -> None:
        self._bar_wanted = bar
        self._bar: tqdm[Any] | None = None

    def start(self, address: str, target: Path, total: int | None, done: int) -> None:
        say(announcement(address, target, total, done))
        if self._bar_wanted:
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
