"""What is said on stderr, by whom: our own lines, and nothing of the libraries below; who has stdout."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from protrna_cli.errors import UsageError

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


def claim_stdout() -> int:
    """Take standard output for one writer, for good; returns its file descriptor.

    Descriptor 1 becomes another name of stderr's: what a library prints, be it when the process ends, is no
    part of the output.

    Raises
    ------
    UsageError
        Standard output is a terminal.
    """
    if os.isatty(1):
        raise UsageError(
            "-o - is a binary file, and standard output a terminal; add > out.parquet, or a pipe"
        )
    claimed = os.dup(1)
    os.dup2(2, 1)
    return claimed
