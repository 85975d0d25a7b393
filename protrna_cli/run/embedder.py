"""Where batches run: in this process, or in several (see `workers`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from protrna_cli.model.alphabet import Alphabet, Tokens
from protrna_cli.plan.rules import TRAINED_LENGTH
from protrna_cli.run.chunk import Floats

if TYPE_CHECKING:
    from protrna_cli.model.transformer import ProtRNA

Pending = Callable[[], list[Floats]]
"""Waits for a batch, and returns or raises what `ProtRNA._embed_batch` does for it."""


WIDEST = 2 * TRAINED_LENGTH
"""Tokens of the longest sequence of a batch that runs beside another: the attention of longer ones needs so
much memory that they run one by one."""


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
        """Take a batch to embed; parameters as in `ProtRNA._embed_batch`."""


class InProcess:
    """A model in this process, to be used as a context manager.

    As many batches run at once as the model's `at_once` says. A batch that runs alone, because it is wide or
    `at_once` is 1, runs when it is waited for.
    """

    def __init__(self, model: ProtRNA) -> None:
        self._model = model
        self.alphabet = model.alphabet
        self.ahead = model.at_once if model.at_once > 1 else 0  # one of them waits to be taken next
        self._threads = ThreadPoolExecutor(model.at_once, "protrna")
        self._ended = False

    def submit(self, tokens: Tokens, weights: Floats, repr_layers: Sequence[int], *poolings: str) -> Pending:
        """Take a batch to embed."""
        run = partial(self._model._embed_batch, tokens, weights, repr_layers, *poolings, check=self._check)
        if not self.ahead or tokens.shape[1] > WIDEST:
            return run
        return self._threads.submit(run).result

    def _check(self) -> None:
        """End a batch that nobody waits for any more."""
        if self._ended:
            raise CancelledError

    def __enter__(self) -> InProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._threads.shutdown(cancel_futures=True)


class Absent:
    """Stands for the model of a run that computes nothing, as all its sequences are reused."""

    ahead = 0

    def __init__(self) -> None:
        self.alphabet = Alphabet()

    def submit(self, tokens: Tokens, weights: Floats, repr_layers: Sequence[int], *poolings: str) -> Pending:
        """Refuse: there is no model."""
        raise NotImplementedError
