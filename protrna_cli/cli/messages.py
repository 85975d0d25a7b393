"""Messages on stderr, results on stdout, and the options that say how much is printed."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click import get_current_context

from protrna_cli.errors import OutputUnwritable, UsageError, WriteFailed
from protrna_cli.text import printable, reason

_COLOURS = {"error": "red", "note": "yellow", "next": "cyan"}

_F = TypeVar("_F", bound=Callable[..., Any])


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


def tell(text: str) -> None:
    """Print one message on stderr, unless `-q` leaves only errors."""
    if not is_quiet():
        say(text)


def note_unproven(output: Path) -> None:
    """Tell if an output that was read has no checksums that prove its numbers."""
    if is_quiet():
        return
    from protrna_cli.output.rows import UNPROVEN
    from protrna_cli.output.stored import open_output

    if part := open_output(output).unproven:
        say(f"note: {part}: {UNPROVEN}")


def suggest(command: str) -> None:
    """Print a command to run next; on a terminal only, since a log file is read later."""
    if sys.stderr.isatty():
        tell(f"next: {command}")


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


def verbosity(command: _F) -> _F:
    """Add `-q` and `-v`, which every command has; what is given is found by `is_quiet` and `is_verbose`."""
    command = _kept("-v", "--verbose", help="Show messages of libraries.")(command)
    return _kept("-q", "--quiet", help="Print only errors.")(command)


def _kept(*words: str, help: str) -> Callable[[_F], _F]:
    """Make a switch that is kept with the running command instead of given to its function."""

    def keep(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        context.meta[words[-1]] = value

    return click.option(*words, is_flag=True, expose_value=False, callback=keep, help=help)


def is_quiet() -> bool:
    """Whether the running command has `-q`."""
    return bool(get_current_context().meta["--quiet"])


def is_verbose() -> bool:
    """Whether the running command has `-v`."""
    return bool(get_current_context().meta["--verbose"])
