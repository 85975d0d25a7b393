"""Keep stderr for our messages and stdout for the output."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from protrna_cli.errors import OutputUnwritable, UsageError, WriteFailed
from protrna_cli.machine import native_stderr_at
from protrna_cli.text import printable, reason

_COLOURS = {"error": "red", "note": "yellow", "next": "cyan"}


def say(text: str) -> None:
    """Print one message on stderr, as one line; on a terminal its first word is coloured, see NO_COLOR."""
    kind, colon, rest = printable(text).partition(":")
    if colon and kind in _COLOURS and not os.environ.get("NO_COLOR"):
        kind = click.style(kind, fg=_COLOURS[kind], bold=True)  # `echo` removes it if this is no terminal
    click.echo(f"protrna: {kind}{colon}{rest}", err=True)


def show(text: str, end: str = "\n") -> None:
    """Print a result on standard output."""
    try:
        click.echo(text + end, nl=False)
    except OSError as error:
        if error.errno == errno.EPIPE:  # click ends the command without a word
            raise
        raise WriteFailed(f"standard output: writing failed ({reason(error)})") from None


def note_unproven(output: Path) -> None:
    """Tell if an output that was read has no checksums that prove its numbers."""
    from protrna_cli.output.parts import unproven_part
    from protrna_cli.output.rows import UNPROVEN

    if part := unproven_part(output):
        say(f"note: {part}: {UNPROVEN}")


def suggest(command: str) -> None:
    """Print a command to run next; on a terminal only, since a log file is read later."""
    if sys.stderr.isatty():
        say(f"next: {command}")


@contextmanager
def quiet_libraries(verbose: bool) -> Iterator[None]:
    """Keep the messages of TensorFlow and matplotlib off stderr, unless `verbose`.

    TensorFlow's C++ side writes to file descriptor 2 before it reads any setting, so the descriptor itself is
    pointed at the null device; Python's `sys.stderr` keeps the terminal. With flags for XLA it stays as it
    is: one that XLA does not know ends the process at once, and only there it says so.
    """
    if verbose:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for library in ("tensorflow", "matplotlib"):
        logging.getLogger(library).setLevel(logging.ERROR)
    if os.environ.get("XLA_FLAGS") or os.environ.get("TF_XLA_FLAGS"):
        yield
        return
    with Path(os.devnull).open("wb") as null, native_stderr_at(null.fileno()):
        yield


def claim_stdout() -> int:
    """Reserve standard output for one writer, permanently; returns its file descriptor.

    Afterwards descriptor 1 points to stderr, so that nothing a library prints, even at exit, gets into the
    output.
    """
    if sys.__stdout__ is None:  # closed before this process began; `main` has put the null device there
        raise OutputUnwritable("standard output is closed; add > out.parquet, or a pipe, or give -o a file")
    if os.isatty(1):
        raise UsageError(
            "-o - writes a binary file, but standard output is a terminal; add > out.parquet, or a pipe"
        )
    claimed = os.dup(1)
    os.dup2(2, 1)
    return claimed
