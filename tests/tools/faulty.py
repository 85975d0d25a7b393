"""Checkpoints whose models fail in worker processes.

The models are the reference of the tests, so that no process has to import TensorFlow.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from protrna_cli.model.alphabet import Alphabet
from protrna_cli.weights.checkpoint import Checkpoint
from tests.tools import reference

TOY = Path(__file__).parents[1] / "golden" / "toy.h5"  # importing tests.conftest takes a second


@dataclass(frozen=True)
class FaultyCheckpoint(Checkpoint):
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

    def load(self, precision: str, device: str, threads: int | None, note: Any = None) -> Any:
        if self.at_load:
            print("the last words", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return FaultyModel(self)


class FaultyModel:
    """The model of a faulty checkpoint, for means, maxima and residues."""

    at_once = 1
    device = "/device:CPU:0"

    def __init__(self, checkpoint: FaultyCheckpoint) -> None:
        self.alphabet = Alphabet()
        self._checkpoint = checkpoint

    @cached_property
    def _weights(self) -> reference.ReferenceWeights:
        return reference.read_weights(self._checkpoint.path)

    def _embed_batch(
        self, tokens: Any, weights: Any, repr_layers: Any, *poolings: str, check: Any = None
    ) -> Any:
        deaths = self._checkpoint.deaths
        if deaths and len(list(deaths.iterdir())) < self._checkpoint.n_deaths:
            (deaths / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if int((tokens != self.alphabet.padding_idx).sum()) > self._checkpoint.most_tokens:
            raise MemoryError
        hidden = reference.forward(self._weights, tokens).representations
        pool = {
            "mean": lambda x: np.einsum("bt,btd->bd", weights, x),
            "max": lambda x: np.where(weights[..., None] > 0, x, -np.inf).max(axis=1),
            "residues": lambda x: x[:, 1:],
        }
        return [pool[name](hidden[layer]).astype(np.float32) for name in poolings for layer in repr_layers]
