"""The one loop: records to windows, to pieces, to batches, through the model, into the sink in input order.

Legend: B batch, T tokens, D width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from protrna_cli import plan
from protrna_cli.alphabet import Alphabet, Tokens
from protrna_cli.errors import NotFinite, OutOfMemory, Stopped
from protrna_cli.journal import Position
from protrna_cli.output.rows import Row, Values
from protrna_cli.plan import Piece
from protrna_cli.records import Record, Skipped
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
        self, tokens: Tokens, weights: Floats, repr_layers: Sequence[int], pooling: str
    ) -> list[Floats]:
        """Embed a batch, one array a layer; see `ProtRNA.embed`."""


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
        """Write the vectors of one row, of one layer."""

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
        How long records are cut.
    repr_layers, pooling
        As `ProtRNA.embed` takes them.
    max_tokens
        Budget of a batch in tokens.
    dtype
        Of the vectors written.
    """

    rules: Rules
    repr_layers: Sequence[int]
    pooling: str
    max_tokens: int
    dtype: str = "float32"


def embed(
    items: Iterable[Record | Skipped], model: Embedder, sink: Sink, job: Job, progress: Progress, stop: Stop
) -> int:
    """Embed records into a sink, from the sink's position on.

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
    done = sink.position
    tokens = 0
    for number, window in enumerate(plan.windows(items)):
        stop.check()
        records = [item for item in window if isinstance(item, Record)]
        if number < done.windows:
            progress.resume(len(records), sum(plan.embedded_length(r.length, job.rules) for r in records))
            continue
        task = Task(records, job.rules, job.max_tokens)
        rows = [row_of(record, job.rules) for record in records]
        starts = sink.open_window(rows, [item for item in window if isinstance(item, Skipped)])
        first = done.batches if number == done.windows else 0
        tokens += _embed_window(task, starts, first, model, sink, job, progress, stop)
        sink.close_window()
    return tokens


def _embed_window(
    task: Task,
    starts: list[int],
    first: int,
    model: Embedder,
    sink: Sink,
    job: Job,
    progress: Progress,
    stop: Stop,
) -> int:
    """Run a window's batches from the `first` on, committing now and then; returns the tokens that ran."""
    joiner = Joiner(task, job.pooling)
    tokens, safe, committed = 0, first, time.monotonic()
    for piece in (task.pieces[i] for batch in task.batches[:first] for i in batch):
        _advance(progress.resume, task, piece)
    try:
        for number, batch in enumerate(task.batches[first:], start=first + 1):
            for i, vectors in _run(model, task, batch, job, stop):
                joined = joiner.add(i, vectors)
                if joined is not None:
                    _fill(sink, task, i, starts, joined, job.dtype)
                _advance(progress.advance, task, task.pieces[i])
                tokens += task.pieces[i].length + 2
            if joiner.idle:
                safe = number
                if time.monotonic() - committed > COMMIT_SECONDS:
                    sink.commit(safe)
                    committed = time.monotonic()
    except (Stopped, NotFinite, OutOfMemory):
        sink.commit(safe)
        raise
    return tokens


def _advance(add: Callable[[int, int], None], task: Task, piece: Piece) -> None:
    """Count a piece that ran, and its record with the last one; equal records were embedded with it."""
    copies = len(task.places[piece.record])
    last = piece.stop == task.embedded(piece.record)
    add(copies * last, copies * piece.fresh)


def _fill(sink: Sink, task: Task, i: int, starts: list[int], joined: list[Floats], dtype: str) -> None:
    """Write a record's vectors to its row, and to those of the records equal to it."""
    record = task.pieces[i].record
    for layer, each in enumerate(joined):
        with np.errstate(over="ignore"):
            vectors = each.astype(dtype)
        if not np.isfinite(vectors).all():
            raise NotFinite(
                f"{task.name(record)}: its embedding is not finite in {dtype}; "
                "try --dtype float32, and check the checkpoint (--model)"
            )
        for place in task.places[record]:
            sink.fill(layer, starts[place], vectors)


def row_of(record: Record, rules: Rules) -> Row:
    """What stands beside a record's embedding."""
    return Row(
        record.id,
        record.description,
        record.length,
        plan.embedded_length(record.length, rules),
        record.n_unknown,
        len(plan.cut(0, record.length, rules)),
    )


def _run(
    model: Embedder, task: Task, batch: list[int], job: Job, stop: Stop
) -> Iterator[tuple[int, list[Floats]]]:
    """Run a batch, in halves where it does not fit; yields each piece and what `Joiner.add` takes of it."""
    tokens, weights = task.tokens(batch, model.alphabet)
    # The maximum of a record in pieces is that of its joined residues, so that they are needed.
    residues = job.pooling == "none" or (job.pooling == "max" and any(task.count(i) > 1 for i in batch))
    try:
        with stop.abandoning():
            layers = model.embed(tokens, weights, job.repr_layers, "none" if residues else job.pooling)
    except MemoryError:
        if len(batch) == 1:
            raise OutOfMemory(
                f"{task.name(task.pieces[batch[0]].record)}: {task.pieces[batch[0]].length:,} residues "
                "at once do not fit into memory; use --long window with a smaller --max-length"
            ) from None
        half = len(batch) // 2
        yield from _run(model, task, batch[:half], job, stop)
        yield from _run(model, task, batch[half:], job, stop)
        return
    for row, i in enumerate(batch):
        length = task.pieces[i].length if residues else 1
        yield i, [values[row].reshape(-1, values.shape[-1])[:length] for values in layers]
