"""Embed records without files: the rows of a run, one chunk at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from protrna_cli.fasta.copies import Copies
from protrna_cli.fasta.records import Record, Skipped
from protrna_cli.output.rows import Values
from protrna_cli.plan.pieces import embedded_length
from protrna_cli.plan.rows import Row
from protrna_cli.plan.rules import Rules
from protrna_cli.run.embedder import InProcess
from protrna_cli.run.journal import Position
from protrna_cli.run.loop import Loop
from protrna_cli.run.options import EmbedOptions
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


class _Kept:
    """Keeps the rows of one chunk: an output of `Loop`."""

    def __init__(self, per_token: bool, pooling: str) -> None:
        self.per_token = per_token
        self.pooling: str | None = pooling
        self.position = Position()
        self._filled: dict[int, dict[int, Values]] = {}

    def add(self, rows: list[Row], skipped: Sequence[Skipped]) -> None:
        """Keep the rows."""
        self._rows, self._skipped = rows, list(skipped)

    def fill(self, layer: int, start: int, vectors: Values) -> None:
        """Keep the vectors of a row."""
        self._filled.setdefault(layer, {})[start] = vectors

    def read(self, layer: int, start: int, count: int) -> Values:
        """Refuse: earlier chunks are not kept."""
        raise NotImplementedError

    def commit(self, position: Position) -> None:
        """Do nothing: there is no file to write."""

    def take(self, n_layers: int) -> ChunkRows:
        """Return the rows, once all are filled."""
        filled = [self._filled.get(layer, {}) for layer in range(n_layers)]
        return ChunkRows(self._rows, [[of[start] for start in sorted(of)] for of in filled], self._skipped)


def embed_chunks(
    chunks: Iterable[list[Record | Skipped]], model: ProtRNA, options: EmbedOptions, progress: Progress
) -> Iterator[ChunkRows]:
    """Embed records chunk by chunk. With the chunks of `into_chunks`, the numbers are those of a file."""
    for chunk in chunks:
        kept = _Kept(options.per_token, options.pool)
        with InProcess(model) as embedder:
            Loop(embedder, [kept], options, progress, Stop()).run(chunk)
        progress.resume(_copied([item for item in chunk if isinstance(item, Record)], options.rules))
        yield kept.take(len(options.layer_numbers))


def _copied(records: list[Record], rules: Rules) -> Amount:
    """Count the records of a chunk that did not run, because another one has the same sequence."""
    running = Copies(rules).assign(records).running
    lengths = [embedded_length(record.length, rules) for i, record in enumerate(records) if i not in running]
    return Amount(len(lengths), sum(lengths))
