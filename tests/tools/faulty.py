"""Checkpoints whose models fail in worker processes."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protrna_cli.weights.checkpoint import CheckpointFile
from tests.conftest import TOY


@dataclass(frozen=True)
class FaultyCheckpoint(CheckpointFile):
    """The toy checkpoint, with a fault.

    Attributes
    ----------
    most_tokens
        A batch of more tokens does not fit into memory.
    deaths
        A folder in which each death is recorded. As long as there are fewer than `n_deaths`, the process
        kills itself in every batch.
    at_load
        Kill the process as it loads the model.
    """

    path: Path = TOY
    most_tokens: int = 1_000_000
    deaths: Path | None = None
    n_deaths: int = 0
    at_load: bool = False

    def load(self, precision: str, device: str, threads: int | None) -> Any:
        if self.at_load:
            os.kill(os.getpid(), signal.SIGKILL)
        model = super().load(precision, device, threads)
        embed = model.embed

        def faulty(tokens: Any, *rest: Any) -> Any:
            if self.deaths and len(list(self.deaths.iterdir())) < self.n_deaths:
                (self.deaths / str(os.getpid())).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if int((tokens != model.alphabet.padding_idx).sum()) > self.most_tokens:
                raise MemoryError
            return embed(tokens, *rest)

        model.embed = faulty  # type: ignore[method-assign]
        return model
