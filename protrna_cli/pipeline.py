"""The one loop: records to windows, to batches, through the model, into the spool in input order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from protrna_cli import plan
from protrna_cli.alphabet import Alphabet, Tokens
from protrna_cli.output.rows import Row, Values
from protrna_cli.records import Record
from protrna_cli.report import Progress


class Embedder(Protocol):
    """What the loop asks of a model."""

    alphabet: Alphabet

    def embed(
        self, tokens: Tokens, lengths: npt.NDArray[np.int32], repr_layers: Sequence[int], pooling: str
    ) -> list[npt.NDArray[np.float32]]:
        """Embed a batch, one array a layer."""


class Sink(Protocol):
    """Where rows go: announced in input order, filled in any."""

    def announce(self, rows: list[Row]) -> list[int]:
        """Add rows; returns the place of each row's first vector."""

    def fill(self, layer: int, start: int, vectors: Values) -> None:
        """Write the vectors of one row, of one layer."""


def embed(
    records: Iterable[Record],
    model: Embedder,
    sink: Sink,
    progress: Progress,
    *,
    repr_layers: Sequence[int],
    pooling: str,
    max_tokens: int,
) -> None:
    """Embed records into a sink.

    Parameters
    ----------
    records
        In input order. No more than one window of them is held at a time.
    repr_layers, pooling
        As `ProtRNA.embed` takes them.
    max_tokens
        Budget of a batch in tokens, padding included.
    """
    for window in plan.windows(records):
        starts = sink.announce([_row(record) for record in window])
        for batch in plan.batches([record.length for record in window], max_tokens):
            encoded = [model.alphabet.encode(window[place].sequence) for place in batch]
            lengths = np.array([len(ids) for ids in encoded], np.int32)
            values = model.embed(model.alphabet.frame(encoded), lengths, repr_layers, pooling)
            for layer, rows in enumerate(values):
                for place, row, length in zip(batch, rows, lengths, strict=True):
                    sink.fill(layer, starts[place], row[:length] if pooling == "none" else row[None])
            progress.advance(len(batch), int(lengths.sum()))


def _row(record: Record) -> Row:
    return Row(record.id, record.description, record.length, record.length, record.n_unknown, n_windows=1)
