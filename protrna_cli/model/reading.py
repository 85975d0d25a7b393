"""What reading a checkpoint takes in every layout: flaws with their remedies, and values that are finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protrna_cli.disk import open_regular
from protrna_cli.errors import WeightsError
from protrna_cli.text import printable, unreadable

LONGEST_FLAW = 500
FETCH = "run protrna weights fetch"


class Flaw(Exception):
    """What is wrong with a file and how to fix it, without the file's name.

    Without a remedy, that of its layout is meant.
    """

    def __init__(self, text: str, remedy: str | None = None) -> None:
        super().__init__(printable(text[:LONGEST_FLAW]))  # it may quote names from the file
        self.remedy = remedy


class WriteError(Exception):
    """What was made from the weights cannot be written; `OSError` would be one of reading them."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def naming(path: Path, remedy: str = FETCH) -> Iterator[None]:
    """Turn a flaw into a WeightsError that names the file.

    remedy: for flaws that have none of their own.
    """
    try:
        yield
    except Flaw as flaw:
        advice = f"{flaw.remedy or remedy}, or name another with --model"
        raise WeightsError(f"{path}: {flaw}; {advice}") from flaw.__cause__


@contextmanager
def reading() -> Iterator[None]:
    """Turn errors of the system, while a file is read, into flaws of it."""
    try:
        yield
    except MemoryError as error:
        raise Flaw("does not fit into memory", "use a machine with more memory") from error
    except OSError as error:
        raise Flaw(unreadable(error)) from error


def find_foreign(path: Path) -> Flaw | None:
    """Say why a path is no checkpoint in any layout; None if it may be one."""
    try:
        if path.is_dir():
            return _flaw_of_folder(path)
        with open_regular(path) as file:
            start = file.read(512)
    except OSError as denied:
        return Flaw(unreadable(denied))
    if start.startswith(b"version https://git-lfs.github.com/"):
        return Flaw(
            "a Git LFS pointer, not the weights themselves",
            "run git lfs pull in its repository, or protrna weights fetch",
        )
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return Flaw("an HTML page, such as a server's error or login page, saved as this file")
    return None if start else Flaw("an empty file")


def _flaw_of_folder(path: Path) -> Flaw:
    if (path / "model.safetensors.index.json").exists():
        return Flaw(
            "a folder, not a checkpoint: its weights are in several files",
            'save them in one, with save_pretrained(…, max_shard_size="100GB")',
        )
    return Flaw("a folder, not a checkpoint: it has no model.safetensors")


def not_protrna(why: str) -> Flaw:
    """Say that a file is in a layout of checkpoints, but not one of ProtRNA."""
    return Flaw(f"not a ProtRNA checkpoint: {why}")


def finite_float32(name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Turn the values of a weight into float32; refuses those that are not finite."""
    with np.errstate(over="ignore", invalid="ignore"):  # found below
        values = values.astype(np.float32, copy=False)
        # The sum costs a tenth of isfinite over every value; any value that is not finite shows in it.
        total = values.sum()
    if not np.isfinite(total):
        raise not_protrna(f"{name} has values that are not finite")
    return values
