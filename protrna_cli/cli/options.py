"""Options and arguments shared by several commands.

A command line holds some thousand paths, a list (`--files-from`) any number.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Callable
from dataclasses import Field, fields
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from click import get_current_context
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from protrna_cli.errors import InputError, InputUnreadable, UsageError
from protrna_cli.plan.rules import ALL, AUTO, STDIN, option_of
from protrna_cli.text import printable, unreadable
from protrna_cli.weights.checkpoint import DEMO, PUBLISHED

_F = TypeVar("_F", bound=Callable[..., Any])

ANY_PATH = click.Path(readable=False)
"""A path. Whether it can be read is found when it is read; click would call it a usage error if not."""


class _Folder(click.Path):
    """A path for which the shell offers folders; what is there is found when it is used."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="dir")]


class _Model(click.Path):
    """A name of a model, or the path of a checkpoint; the shell offers names where one fits."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        fitting = [name for name in (PUBLISHED, DEMO) if name.startswith(incomplete)]
        return [CompletionItem(name) for name in fitting] or super().shell_complete(ctx, param, incomplete)


FOLDER = _Folder(readable=False)
MODEL = _Model(readable=False)


class OneOf(click.Choice):  # type: ignore[type-arg]
    """One of a few texts; what it refuses, it tells as `one_of` does for Python."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value not in self.choices:
            *others, last = map(str, self.choices)
            self.fail(
                f"takes {' or '.join(filter(None, [', '.join(others), last]))}, not {value!r}", param, ctx
            )
        return value


class WholeNumber(click.ParamType):  # type: ignore[type-arg]
    """A whole number from `least` to `most`, told as `whole_number` does for Python; or `word`, as `auto`."""

    name = "number"

    def __init__(self, least: int | None = None, most: int | None = None, word: str = "") -> None:
        self.least, self.most, self.word = least, most, word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if self.word and value == self.word:
            return value
        if re.fullmatch(r"-?[0-9]{1,18}", str(value)):
            number = int(value)
            if (self.least is None or number >= self.least) and (self.most is None or number <= self.most):
                return number
        bounds = "" if self.least is None else f" from {self.least}{' up' if self.most is None else ''}"
        bounds += "" if self.most is None else f" to {self.most}"
        either = f"{self.word} or " if self.word else ""
        return self.fail(f"takes {either}a whole number{bounds}, not {value!r}", param, ctx)


def was_given(name: str) -> bool:
    """Whether the user gave this option of the running command, even if the value is the default."""
    return get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT


def options_of(declaring: type, *names: str) -> Callable[[_F], _F]:
    """Add the options of fields, by default of all that have one."""

    def add(command: _F) -> _F:
        for declared in reversed(fields(declaring)):
            if declared.metadata["option"].help and declared.name in (names or (declared.name,)):
                command = _option(declaring, declared)(command)
        return command

    return add


def _option(declaring: type, declared: Field[Any]) -> Callable[[_F], _F]:
    """Make click's option of a field."""
    name, option = option_of(declaring, declared.name)
    words: list[str] = [*option.letters, name, declared.name]
    if option.kind == "switch":
        return click.option(*words, is_flag=True, help=option.help)
    kinds = {
        "choice": OneOf(option.choices),
        "number": WholeNumber(option.least),
        "numbers or all": WholeNumber(word=ALL),
        "number or auto": WholeNumber(1, word=AUTO),
        "path": ANY_PATH,
        "paths": ANY_PATH,
        "folder": FOLDER,
        "model": MODEL,
        "shard": str,
        "text": str,
    }
    several = option.kind in ("numbers or all", "paths")
    shown = declared.default is not None and not several and option.kind != "shard"
    return click.option(
        *words,
        type=kinds[option.kind],
        multiple=several,
        default=declared.default if several or declared.default is None else str(declared.default),
        show_default=shown,
        metavar=option.metavar,
        envvar=option.variable,
        show_envvar=option.variable is not None,
        help=option.help,
    )


as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
"""Adds `--json`, for commands whose result a program may read."""


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
