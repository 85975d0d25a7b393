"""Options shared by several commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click import get_current_context
from click.core import ParameterSource

from protrna_cli.output.formats.table import ALL_FORMATS, H5_LAYOUTS, RUN_FORMATS
from protrna_cli.plan.values import AUTO

_F = TypeVar("_F", bound=Callable[..., Any])

ANY_PATH = click.Path(readable=False)
"""A path. Whether it can be read is found when it is read; click would call it a usage error if not."""


class AutoOrNumber(click.ParamType):  # type: ignore[type-arg]
    """A whole number from 1 up, or `auto`."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value != AUTO and not (str(value).isdecimal() and int(value)):
            self.fail(f"{value!r} is neither {AUTO} nor a whole number from 1 up", param, ctx)
        return value if value == AUTO else int(value)


def was_given(name: str) -> bool:
    """Whether the user gave this option of the running command, even if the value is the default."""
    return get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT


def verbosity(command: _F) -> _F:
    """Add `-q` and `-v`, which every command has."""
    command = click.option("-v", "--verbose", is_flag=True, help="Show messages of libraries.")(command)
    return click.option("-q", "--quiet", is_flag=True, help="Print only errors.")(command)


def on_device(command: _F) -> _F:
    """Add `--device` and `--threads`, for commands that run a model."""
    command = click.option(
        "--threads",
        type=click.IntRange(1),
        metavar="N",
        help="CPU threads.  [default: all that it may use]",
    )(command)
    return click.option(
        "--device", default="auto", show_default=True, metavar="auto|cpu|gpu[:N]", help="Device to run on."
    )(command)


def weights_dir(command: _F) -> _F:
    """Add `--weights-dir`."""
    return click.option(
        "--weights-dir",
        metavar="DIR",
        help="Folder of the weights.  [default: PROTRNA_HOME, or the user's cache]",
    )(command)


def as_json(command: _F) -> _F:
    """Add `--json`, for commands whose result a program may read."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def format_of_output(exports: bool = False) -> Callable[[_F], _F]:
    """Add `--format` and `--h5-layout`, for commands that write an output.

    Parameters
    ----------
    exports
        Whether export formats for other programs are allowed.
    """

    def add(command: _F) -> _F:
        command = click.option(
            "--h5-layout",
            type=click.Choice(H5_LAYOUTS),
            default="flat",
            show_default=True,
            help="HDF5: a dataset per record, or one matrix.",
        )(command)
        return click.option(
            "--format",
            type=click.Choice(ALL_FORMATS if exports else RUN_FORMATS),
            help="Format of OUT.  [default: by its suffix]",
        )(command)

    return add


def overwrite(name: str = "OUT") -> Callable[[_F], _F]:
    """Add `--overwrite`.

    Parameters
    ----------
    name
        Name of the replaced file in the help text.
    """
    return click.option("--overwrite", is_flag=True, help=f"Replace {name} if it exists.")
