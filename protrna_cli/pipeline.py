"""The one loop: records to windows, to pieces, to batches, through the model, into the sinks in input order.

Legend: B batch, T tokens, D width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Protocol

import numpy as np

from protrna_cli import plan
from protrna_cli.alphabet import Alphabet, Tokens
from protrna_cli.errors import NotFinite, OutOfMemory, Stopped
from protrna_cli.journal import Position
from protrna_cli.output.rows import Row, Values
from protrna_cli.plan import Piece
from protrna_cli.records import Record, Skipped, rows_of
from protrna_cli.report import Progress
from protrna_cli.rules import Rules
from protrna_cli.stopping import Stop
from protrna_cli.task import Floats, Joiner, Task

COMMIT_SECONDS = 30.0
"""Work that a sudden end may cost, besides the batch that runs: between commits no more time passes."""


class Embedder(Protocol):
    """What the loop asks of a model."""

    alphabet: Alphabet

    def embed(
        self, tokens: Tokens, weights: Floats, repr_layers: Sequence[int], *poolings: str
    ) -> list[Floats]:
        """Embed a batch, one array a layer and pooling; see `ProtRNA.embed`."""


class Sink(Protocol):
    """Where rows go: window by window in input order, filled in any order inside one.

    Attributes
    ----------
    position
        How far the run is; windows and batches done are not run again.
    """

    position: Position

    def open_window(self, rows: list[Row], skipped: Sequence[Skipped]) -> list[int]:
        """Add the rows of the next window; returns the place of each row's first vector."""

    def fill(self, layer: int, start: int, vectors: Values) -> None:
        """Write the vectors of one record, of one layer, from the place of its first row on."""

    def commit(self, batches: int) -> None:
        """Make durable what was written; `batches` batches of the open window are whole."""

    def close_window(self) -> None:
        """Make the open window durable; all its rows are filled."""


@dataclass(frozen=True)
class Job:
    """What is asked of the model.

    Attributes
    ----------
    rules
        How long records are cut, and of which residues a row speaks.
    repr_layers
        As `ProtRNA.embed` takes them.
    max_tokens
        Budget of a batch in tokens.
    dtype
        Of the vectors written.
    """

    rules: Rules
    repr_layers: Sequence[int]
    max_tokens: int
    dtype: str = "float32"


@dataclass(frozen=True)
class Product:
    """What the one pass through the model makes for one output.

    Attributes
    ----------
    pooling
        Of a record or a region: `mean`, `max` or `cls`; or `none` for the residues of a record.
    sink
        Where it goes.
    """

    pooling: str
    sink: Sink


def embed(
    items: Iterable[Record | Skipped],
    model: Embedder,
    products: Sequence[Product],
    job: Job,
    progress: Progress,
    stop: Stop,
) -> int:
    """Embed records into the sink of each product, from its position on.

    Parameters
    ----------
    items
        Records and what is left out, in input order. No more than one window of them is held at a time.

    Returns
    -------
    int
        How many tokens ran.

    Raises
    ------
    Stopped
        `stop` asked for it; all batches done are committed.
    NotFinite, OutOfMemory
        A record cannot be embedded; the message names it. The batches before it are committed.
    """
    tokens = 0
    for number, window in enumerate(plan.windows(items)):
        stop.check()
        records = [item for item in window if isinstance(item, Record)]
        lacking = [product for product in products if product.sink.position.windows <= number]
        if not lacking:
            progress.resume(len(records), sum(plan.embedded_length(r.length, job.rules) for r in records))
            continue
        task = Task(records, job.rules, job.max_tokens)
        skipped = [item for item in window if isinstance(item, Skipped)]
        # A sink that has more batches is filled with the same once more.
        first = min(product.sink.position.batches for product in lacking)
        makers = [_Maker(product, task, records, skipped, job) for product in lacking]
        tokens += _embed_window(task, makers, first, model, job, progress, stop)
        for product in lacking:
            product.sink.close_window()
    return tokens


class _Maker:
    """Makes one product of a window: takes pieces from the model, and fills the rows of whole records."""

    def __init__(
        self, product: Product, task: Task, records: list[Record], skipped: list[Skipped], job: Job
    ) -> None:
        per_token = product.pooling == "none"
        rows = [rows_of(record, job.rules, per_token) for record in records]
        starts = product.sink.open_window([row for each in rows for row in each], skipped)
        firsts = accumulate(map(len, rows), initial=0)
        self._starts = [starts[first] for first in islice(firsts, len(rows))]
        by_id = {} if per_token or not job.rules.regions else job.rules.regions.by_id
        self._regions = [by_id.get(record.id, []) for record in records]
        self._joiner = Joiner(task, "none" if by_id else product.pooling)
        self._task, self._dtype = task, job.dtype
        self._pooling, self.sink = product.pooling, product.sink

    @property
    def idle(self) -> bool:
        """Whether no record waits for more of its pieces."""
        return self._joiner.idle

    def asks(self, i: int) -> str:
        """Pooling that the model is to do for piece `i`."""
        # The maximum of a record in pieces is that of its joined residues, so that they are needed.
        in_pieces = self._joiner.pooling == "max" and self._task.count(i) > 1
        return "none" if in_pieces else self._joiner.pooling

    def take(self, i: int, vectors: dict[str, list[Floats]]) -> None:
        """Take what the model made of piece `i`; a whole record fills its rows, and those equal to it."""
        joined = self._joiner.add(i, vectors[self.asks(i)])
        if joined is None:
            return
        record = self._task.pieces[i].record
        for place in self._task.places[record]:
            for layer, each in enumerate(joined):
                with np.errstate(over="ignore"):
                    row = self._pooled(place, record, each).astype(self._dtype)
                if not np.isfinite(row).all():
                    raise NotFinite(
                        f"{self._task.name(record)}: its embedding is not finite in {self._dtype}; "
                        "try --dtype float32, and check the checkpoint (--model)"
                    )
                self.sink.fill(layer, self._starts[place], row)

    def _pooled(self, place: int, record: int, vectors: Floats) -> Values:
        """Pool the residues (L, D) of a record's regions: (regions, D); without regions all is done."""
        if not self._regions[place]:
            return vectors
        counted = self._task.counted(record)
        spans = [slice(region.start, region.stop) for region in self._regions[place]]
        parts = [vectors[span][counted[span]] for span in spans]
        if self._pooling == "max":
            return np.stack([part.max(axis=0) for part in parts])
        return np.stack([part.mean(axis=0, dtype=np.float64) for part in parts])


def _embed_window(
    task: Task,
    makers: list[_Maker],
    first: int,
    model: Embedder,
    job: Job,
    progress: Progress,
    stop: Stop,
) -> int:
    """Run a window's batches from the `first` on, committing now and then; returns the tokens that ran."""
    tokens, safe, committed = 0, first, time.monotonic()
    for piece in (task.pieces[i] for batch in task.batches[:first] for i in batch):
        _advance(progress.resume, task, piece)
    try:
        for number, batch in enumerate(task.batches[first:], start=first + 1):
            for i, vectors in _run(model, task, makers, batch, job, stop):
                for maker in makers:
                    maker.take(i, vectors)
                _advance(progress.advance, task, task.pieces[i])
                tokens += task.pieces[i].length + 2
            if makers[0].idle:
                safe = number
                if time.monotonic() - committed > COMMIT_SECONDS:
                    _commit(makers, safe)
                    committed = time.monotonic()
    except (Stopped, NotFinite, OutOfMemory):
        _commit(makers, safe)
        raise
    return tokens


def _commit(makers: list[_Maker], batches: int) -> None:
    for maker in makers:
        maker.sink.commit(batches)


def _advance(add: Callable[[int, int], None], task: Task, piece: Piece) -> None:
    """Count a piece that ran, and its record with the last one; equal records were embedded with it."""
    copies = len(task.places[piece.record])
    last = piece.stop == task.embedded(piece.record)
    add(copies * last, copies * piece.fresh)


def _run(
    model: Embedder, task: Task, makers: list[_Maker], batch: list[int], job: Job, stop: Stop
) -> Iterator[tuple[int, dict[str, list[Floats]]]]:
    """Run a batch, in halves where it does not fit; yields each piece and its vectors, by pooling."""
    tokens, weights = task.tokens(batch, model.alphabet)
    poolings = list(dict.fromkeys(maker.asks(i) for maker in makers for i in batch))
    try:
        with stop.abandoning():
            arrays = model.embed(tokens, weights, job.repr_layers, *poolings)
    except MemoryError:
        if len(batch) == 1:
            raise OutOfMemory(
                f"{task.name(task.pieces[batch[0]].record)}: {task.pieces[batch[0]].length:,} residues "
                "at once do not fit into memory; use --long window with a smaller --max-length"
            ) from None
        half = len(batch) // 2
        yield from _run(model, task, makers, batch[:half], job, stop)
        yield from _run(model, task, makers, batch[half:], job, stop)
        return
    n_layers = len(job.repr_layers)
    for row, i in enumerate(batch):
        vectors = [np.atleast_2d(values[row])[: task.pieces[i].length] for values in arrays]
        yield i, {pooling: vectors[k * n_layers :][:n_layers] for k, pooling in enumerate(poolings)}
