"""Paths on the command line and in a list, `--files-from`: a command line holds some thousand, a list any."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from protrna_cli.cli.options import ANY_PATH
from protrna_cli.errors import InputError, InputUnreadable, UsageError
from protrna_cli.plan.rules import STDIN
from protrna_cli.text import printable, unreadable

_F = TypeVar("_F", bound=Callable[..., Any])


def several_paths(name: str, metavar: str) -> Callable[[_F], _F]:
    """Add an argument that takes several paths, and `--files-from` and `-0`, which add those of a list."""

    def add(command: _F) -> _F:
        @wraps(command)
        def with_listed(*, files_from: str | None, null: bool, **values: Any) -> Any:
            given = values[name]
            if null and not files_from:
                raise UsageError("-0 says how LIST ends its paths; give --files-from LIST as well")
            if files_from:
                listed = read_list(files_from, null)
                if files_from == STDIN and STDIN in (*given, *listed):
                    raise UsageError(
                        "standard input (-) can be read only once; it is the list of --files-from"
                    )
                given = (*given, *listed)
            if not given:
                context = click.get_current_context()
                [argument] = (parameter for parameter in context.command.params if parameter.name == name)
                raise click.MissingParameter(ctx=context, param=argument)
            return command(**{**values, name: given})

        added = click.option(
            "-0", "--null", "null", is_flag=True, help="LIST ends each path with a NUL byte, as find -print0."
        )(with_listed)
        added = click.option(
            "--files-from",
            metavar="LIST",
            type=ANY_PATH,
            help=f"Also take each {metavar.rstrip('.')} in LIST, one a line; - is standard input.",
        )(added)
        return cast(_F, click.argument(name, nargs=-1, metavar=metavar, type=ANY_PATH)(added))

    return add


def read_list(name: str, null: bool) -> list[str]:
    """Read the paths of a list; empty lines are left out. A path is relative to the working folder."""
    shown = "<stdin>" if name == STDIN else printable(name)
    data = _bytes_of(name, shown)
    if null:
        if b"\0" not in data and b"\n" in data.strip():
            raise InputError(f"{shown}: its paths end with newlines, not NUL bytes; leave -0 out")
        lines = data.split(b"\0")
    else:
        if b"\0" in data:
            raise InputError(
                f"{shown}: has NUL bytes; use -0 if they end its paths, or save it as UTF-8 if it is UTF-16"
            )
        lines = [line.removesuffix(b"\r") for line in data.removeprefix(codecs.BOM_UTF8).split(b"\n")]
    paths = {number: os.fsdecode(line) for number, line in enumerate(lines, start=1) if line}
    if not paths:
        raise InputError(f"{shown}: an empty list; it must have the path of a file on each line")
    for number, path in paths.items():
        if name != STDIN and os.path.basename(path) == os.path.basename(name) and _is_same(path, name):  # noqa: PTH119
            raise InputError(f"{shown}: path {number:,} is the list itself; remove it from the list")
    return list(paths.values())


def _bytes_of(name: str, shown: str) -> bytes:
    if name == STDIN and sys.stdin is None:
        raise InputUnreadable("<stdin>: standard input is closed; give --files-from a file or a pipe")
    try:
        return sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
    except OSError as error:
        raise InputUnreadable(f"{shown}: the list {unreadable(error)}; check the path") from None


def _is_same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
