"""Small runs with the toy checkpoint, and ways to stop and start them."""

from __future__ import annotations

import sys
from typing import Any

from protrna_cli import EmbedOptions
from protrna_cli.errors import Stopped
from protrna_cli.plan.rules import Rules
from protrna_cli.run.report import Progress, Stop
from tests.conftest import TOY

RUN_KINDS = [("parquet", "flat"), ("npy", "flat"), ("h5", "flat"), ("h5", "packed")]
"""Format and HDF5 layout of every kind of output of a run."""

RULES = Rules(on_invalid="skip", max_length=60)
OPTIONS = EmbedOptions(model=str(TOY), rules=RULES, batch_tokens=150, format="npy")


class Notes(Progress):
    """Keeps the notes of a run."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class StopAfter(Stop):
    """Stops the run after `checks` checks."""

    def __init__(self, checks: int) -> None:
        self.left = checks

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Stopped("stopped by a test")

    def abandoning(self) -> Any:
        self.check()
        return super().abandoning()


def light(*words: object) -> list[str]:
    """Build the command line of a `protrna` process that has no TensorFlow."""
    return [sys.executable, "-m", "tests.tools.light", *map(str, words)]


def command(*words: object, first: str | None = None) -> list[str]:
    """Build the command line of a `protrna` process, which executes this statement first."""
    script = f"{first}; from protrna_cli.cli.main import main; main()"
    return [sys.executable, *(["-c", script] if first else ["-m", "protrna_cli"]), *map(str, words)]
