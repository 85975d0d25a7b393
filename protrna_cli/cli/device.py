"""The options of every command that runs a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])


def on_device(command: _F) -> _F:
    """Add `--device` and `--threads`."""
    command = click.option(
        "--threads",
        type=click.IntRange(1),
        metavar="N",
        help="CPU threads.  [default: all this process may use]",
    )(command)
    return click.option(
        "--device", default="auto", show_default=True, metavar="auto|cpu|gpu[:N]", help="Where to compute."
    )(command)
