"""Where batches run: in this process, or in several (see `workers`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from protrna_cli.model.alphabet import Alphabet, Tokens
from protrna_cli.run.batching import Floats

if TYPE_CHECKING:
    from protrna_cli.model.transformer import ProtRNA

Pending = Callable[[], list[Floats]]
"""Waits for a batch, and returns or raises what `ProtRNA.embed` does for it."""


class Embedder(Protocol):
    """The part of a model that a run uses.

    Attributes
    ----------
    alphabet
        The letters and their ids.
    ahead
        How many batches to submit before the first of them is waited for.
    """

    alphabet: Alphabet
    ahead: int

    def submit(self, tokens: Tokens, weights: Floats, repr_layers: Sequence[int], *poolings: str) -> Pending:
        """Take a batch to embed; parameters as in `ProtRNA.embed`."""


class InProcess:
    """A model in this process; a batch runs when it is waited for."""

    ahead = 0

    def __init__(self, model: ProtRNA) -> None:
        self._model = model
        self.alphabet = model.alphabet

    def submit(self, tokens: Tokens, weights: Floats, repr_layers: Sequence[int], *poolings: str) -> Pending:
        """Take a batch to embed."""
        return partial(self._model.embed, tokens, weights, repr_layers, *poolings)


class Absent:
    """Stands for the model of a run that computes nothing, as all its sequences are reused."""

    ahead = 0

    def __init__(self) -> None:
        self.alphabet = Alphabet()

    def submit(self, tokens: Tokens, weights: Floats, repr_layers: Sequence[int], *poolings: str) -> Pending:
        """Refuse: there is no model."""
        raise NotImplementedError
