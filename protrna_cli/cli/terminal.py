"""What is said on stderr, by whom: our own lines, a progress bar, and nothing of the libraries below."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from tqdm import tqdm

from protrna_cli.report import Progress

_F = TypeVar("_F", bound=Callable[..., Any])


def verbosity(command: _F) -> _F:
    """Add `-q` and `-v`, which every command takes."""
    command = click.option("-v", "--verbose", is_flag=True, help="Let TensorFlow's own messages through.")(
        command
    )
    return click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")(command)


def say(text: str) -> None:
    """Print one line of ours on stderr."""
    click.echo(f"protrna: {text}", err=True)


@contextmanager
def hushed_libraries(verbose: bool) -> Iterator[None]:
    """Keep TensorFlow's chatter off stderr, unless `verbose`.

    Its C++ side writes to file descriptor 2 before any of its settings is read, so the descriptor itself
    goes to the null device; Python's `sys.stderr` keeps the terminal.
    """
    if verbose:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        kept = os.dup(2)
    except OSError:  # stderr is closed: there is nothing to keep clean
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    before = sys.stderr
    try:
        os.dup2(null, 2)
        if before is sys.__stderr__ and before is not None:
            sys.stderr = os.fdopen(
                os.dup(kept), "w", buffering=1, encoding=before.encoding, errors=before.errors
            )
        yield
    finally:
        if sys.stderr is not before:
            sys.stderr.close()
            sys.stderr = before
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


class Spoken(Progress):
    """Says its notes, and nothing else."""

    def note(self, text: str) -> None:
        say(f"note: {text}")


class Bar(Spoken):
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


def progress_for(kind: str, quiet: bool) -> Progress:
    """Progress as `--progress` asks: `auto` is a bar on a terminal and silence elsewhere."""
    wanted = kind == "bar" or (kind == "auto" and not quiet and sys.stderr.isatty())
    if wanted:
        return Bar()
    return Progress() if quiet else Spoken()
