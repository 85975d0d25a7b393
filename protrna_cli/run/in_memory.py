"""Embed records without files: the rows of a run, one chunk at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from protrna_cli.fasta.copies import Copies
from protrna_cli.fasta.records import Record, Skipped
from protrna_cli.output.rows import Values
from protrna_cli.plan.chunks import into_chunks
from protrna_cli.plan.pieces import embedded_length
from protrna_cli.plan.rows import Row
from protrna_cli.plan.rules import Rules
from protrna_cli.run import pipeline
from protrna_cli.run.embedder import InProcess
from protrna_cli.run.journal import Position
from protrna_cli.run.pipeline import Product, Request
from protrna_cli.run.report import Amount, Progress
from protrna_cli.run.stop import Stop

if TYPE_CHECKING:
    from protrna_cli.model.transformer import ProtRNA


class ChunkRows(NamedTuple):
    """The rows of one chunk.

    Attributes
    ----------
    rows
        The rows, in the order of the records.
    vectors
        For each layer the vectors of each row: (1, D), or (L, D) per token.
    skipped
        The records that are left out.
    """

    rows: list[Row]
    vectors: list[list[Values]]
    skipped: list[Skipped]


class _KeptChunk:
    """Keeps the rows of one chunk: a sink of `pipeline.embed`."""

    def __init__(self, n_layers: int) -> None:
        self.position = Position()
        self._n_layers = n_layers

    def open_chunk(self, rows: list[Row], skipped: Sequence[Skipped]) -> list[int]:
        """Add the rows; returns the index of each, because a row is filled as a whole."""
        self._filled: list[dict[int, Values]] = [{} for _ in range(self._n_layers)]
        self._rows, self._skipped = rows, list(skipped)
        return list(range(len(rows)))

    def fill(self, layer: int, start: int, vectors: Values) -> None:
        """Keep the vectors of row `start`."""
        self._filled[layer][start] = vectors

    def read(self, layer: int, start: int, count: int) -> Values:
        """Refuse: earlier chunks are not kept."""
        raise NotImplementedError

    def halve(self, fits: int) -> None:
        """Do nothing: there is no provenance."""

    def commit(self, batches: int, done: Amount) -> None:
        """Do nothing: there is no file to write."""

    def close_chunk(self, done: Amount) -> None:
        """Do nothing: there is no file to write."""

    def take(self) -> ChunkRows:
        """Return the rows, once all are filled."""
        vectors = [[filled[row] for row in range(len(self._rows))] for filled in self._filled]
        return ChunkRows(self._rows, vectors, self._skipped)


def embed_chunks(
    items: Iterable[Record | Skipped], model: ProtRNA, pooling: str, request: Request, progress: Progress
) -> Iterator[ChunkRows]:
    """Embed records chunk by chunk. The chunks, and so the numbers, are those of a run that writes a file."""
    for chunk in into_chunks(items):
        sink = _KeptChunk(len(request.repr_layers))
        with InProcess(model) as embedder:
            pipeline.embed(chunk, embedder, [Product(pooling, sink)], request, progress, Stop())
        progress.resume(_copied([item for item in chunk if isinstance(item, Record)], request.rules))
        yield sink.take()


def _copied(records: list[Record], rules: Rules) -> Amount:
    """Count the records of a chunk that did not run, because another one has the same sequence."""
    running = Copies(rules).assign(records).running
    lengths = [embedded_length(record.length, rules) for i, record in enumerate(records) if i not in running]
    return Amount(len(lengths), sum(lengths))
