"""The main loop: chunks of records are cut into pieces, run in batches, and go to the sinks in input order.

Legend: B batch, T tokens, D width.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Protocol

import numpy as np

from protrna_cli.errors import NotFinite, OutOfMemory, Stopped
from protrna_cli.fasta.copies import Assignment, Copies
from protrna_cli.fasta.records import Record, Skipped, rows_of
from protrna_cli.model.alphabet import Alphabet, Tokens
from protrna_cli.output.rows import Values
from protrna_cli.plan.chunks import into_chunks
from protrna_cli.plan.pieces import embedded_length
from protrna_cli.plan.rows import Row
from protrna_cli.plan.rules import Rules
from protrna_cli.run.batching import RESIDUES, ChunkBatches, Floats, Joiner
from protrna_cli.run.journal import Position
from protrna_cli.run.report import NOTHING, Amount, Progress
from protrna_cli.run.stop import Stop
from protrna_cli.run.work import Work

COMMIT_SECONDS = 30.0
"""Time between commits: the most work that a crash can cost, besides the running batch."""


class Embedder(Protocol):
    """The part of a model that the loop uses."""

    alphabet: Alphabet

    def embed(
        self, tokens: Tokens, weights: Floats, repr_layers: Sequence[int], *poolings: str
    ) -> list[Floats]:
        """Embed a batch; returns one array per layer and pooling, see `ProtRNA.embed`."""


class Absent:
    """Stands for the model of a run that computes nothing, as all its sequences are reused."""

    def __init__(self) -> None:
        self.alphabet = Alphabet()

    def embed(
        self, tokens: Tokens, weights: Floats, repr_layers: Sequence[int], *poolings: str
    ) -> list[Floats]:
        """Refuse: there is no model."""
        raise NotImplementedError


class Sink(Protocol):
    """Receives rows: chunk by chunk in input order, filled in any order within a chunk.

    Attributes
    ----------
    position
        How far the run got; finished chunks and batches are not run again.
    """

    position: Position

    def open_chunk(self, rows: list[Row], skipped: Sequence[Skipped]) -> list[int]:
        """Add the rows of the next chunk; returns the index of each row's first vector."""

    def fill(self, layer: int, start: int, vectors: Values) -> None:
        """Write the vectors of one record and layer, from the index of its first vector on."""

    def read(self, layer: int, start: int, count: int) -> Values:
        """Read vectors (count, D) of an earlier chunk; called only if the run copies from there."""

    def commit(self, batches: int, done: Amount) -> None:
        """Make the first `batches` batches of the open chunk durable.

        Parameters
        ----------
        done
            The records in these batches and in all chunks before.
        """

    def close_chunk(self, done: Amount) -> None:
        """Make the open chunk durable, once all its rows are filled; `done` includes its records."""


@dataclass(frozen=True)
class Request:
    """What to compute.

    Attributes
    ----------
    rules
        How records are cut, and which residues a row covers.
    repr_layers
        As in `ProtRNA.embed`.
    max_tokens
        Token budget of a batch.
    dtype
        Number type of the output vectors.
    """

    rules: Rules
    repr_layers: Sequence[int]
    max_tokens: int
    dtype: str = "float32"


@dataclass(frozen=True)
class Product:
    """One output of a run: how to pool the vectors, and where to write the rows.

    Attributes
    ----------
    pooling
        `mean`, `max` or `cls` of a record or a region, or `residues` for one vector per residue.
    sink
        Where the rows go.
    """

    pooling: str
    sink: Sink


def embed(
    items: Iterable[Record | Skipped],
    model: Embedder,
    products: Sequence[Product],
    request: Request,
    progress: Progress,
    stop: Stop,
    copies: Copies | None = None,
) -> Work:
    """Embed records into the sink of each product, starting at its position.

    Parameters
    ----------
    items
        Records and skipped records, in input order. At most one chunk of them is in memory at a time.
    copies
        Finds records with the sequence of another one; by default within a chunk.

    Returns
    -------
    Work
        The batches that ran.

    Raises
    ------
    Stopped
        A stop was requested; all finished batches are committed.
    NotFinite, OutOfMemory
        A record cannot be embedded; the message names it. The batches before it are committed.
    """
    work, done = Work(), NOTHING
    copies = copies or Copies(request.rules)
    for number, chunk_items in enumerate(into_chunks(items)):
        stop.check()
        records = [item for item in chunk_items if isinstance(item, Record)]
        unfinished = [product for product in products if product.sink.position.chunks <= number]
        before, assignment = done, copies.assign(records)
        work.n_reused += assignment.n_reused
        lengths = [embedded_length(records[i].length, request.rules) for i in assignment.running]
        done += Amount(len(lengths), sum(lengths))
        if not unfinished:
            continue
        chunk = ChunkBatches(records, assignment.running, request.rules, request.max_tokens)
        skipped = [item for item in chunk_items if isinstance(item, Skipped)]
        # A sink that is further ahead gets the same batches again.
        first = min(product.sink.position.batches for product in unfinished)
        fillers = [RowFiller(product, chunk, records, assignment, skipped, request) for product in unfinished]
        _embed_chunk(chunk, fillers, first, before, model, request, progress, stop)
        for product in unfinished:
            product.sink.close_chunk(done)
        for batch in chunk.batches[first:]:
            work.add(chunk.token_counts(batch))
    return work


class RowFiller:
    """Fills the rows of one product in one chunk.

    Copies of earlier rows are filled at once. For the others, pieces are taken from the model, joined and
    pooled.
    """

    def __init__(
        self,
        product: Product,
        chunk: ChunkBatches,
        records: list[Record],
        assignment: Assignment,
        skipped: list[Skipped],
        request: Request,
    ) -> None:
        per_token = product.pooling == RESIDUES
        rows = [rows_of(record, request.rules, per_token) for record in records]
        starts = product.sink.open_chunk([row for each in rows for row in each], skipped)
        firsts = accumulate(map(len, rows), initial=0)
        self._starts = [starts[first] for first in islice(firsts, len(rows))]
        by_id = {} if per_token or not request.rules.regions else request.rules.regions.by_id
        self._regions = [by_id.get(record.id, []) for record in records]
        self._joiner = Joiner(chunk, RESIDUES if by_id else product.pooling)
        self._chunk, self._dtype = chunk, request.dtype
        self._pooling, self.sink = product.pooling, product.sink
        self._equal = assignment.running
        for place, first in assignment.copied.items():
            count = sum(row.n_embedded for row in rows[place]) if per_token else len(rows[place])
            for layer in range(len(request.repr_layers)):
                self.sink.fill(layer, self._starts[place], self.sink.read(layer, first[per_token], count))

    @property
    def idle(self) -> bool:
        """Whether no record is waiting for more pieces."""
        return self._joiner.idle

    def wanted(self, i: int) -> str:
        """Pooling that the model must do for piece `i`."""
        # The maximum of a record in pieces is taken over its joined residues, so all of them are needed.
        in_pieces = self._joiner.pooling == "max" and self._chunk.piece_count(i) > 1
        return RESIDUES if in_pieces else self._joiner.pooling

    def take(self, i: int, vectors: dict[str, list[Floats]]) -> None:
        """Take the vectors of piece `i`; the last one fills the rows of its record and of equal records."""
        joined = self._joiner.add(i, vectors[self.wanted(i)])
        if joined is None:
            return
        record = self._chunk.pieces[i].record
        for place in self._equal[record]:
            for layer, each in enumerate(joined):
                with np.errstate(over="ignore"):
                    row = self._pooled(place, record, each).astype(self._dtype)
                if not np.isfinite(row).all():
                    raise NotFinite(
                        f"{self._chunk.name(record)}: its embedding is not finite in {self._dtype}; "
                        "try --dtype float32, and check the checkpoint (--model)"
                    )
                self.sink.fill(layer, self._starts[place], row)

    def _pooled(self, place: int, record: int, vectors: Floats) -> Values:
        """Pool residues (L, D) into one row (D,) per region of the record, if it has regions."""
        if not self._regions[place]:
            return vectors
        mask = self._chunk.mean_mask(record)
        spans = [slice(region.start, region.stop) for region in self._regions[place]]
        parts = [vectors[span][mask[span]] for span in spans]
        if self._pooling == "max":
            return np.stack([part.max(axis=0) for part in parts])
        return np.stack([part.mean(axis=0, dtype=np.float64) for part in parts])


def _embed_chunk(
    chunk: ChunkBatches,
    fillers: list[RowFiller],
    first: int,
    done: Amount,
    model: Embedder,
    request: Request,
    progress: Progress,
    stop: Stop,
) -> None:
    """Run the batches of a chunk from number `first` on, with commits; `done` counts the chunks before."""
    done = sum((_amount(chunk, i) for batch in chunk.batches[:first] for i in batch), done)
    complete, committed = (first, done), time.monotonic()
    try:
        for number, batch in enumerate(chunk.batches[first:], start=first + 1):
            for i, vectors in _run(model, chunk, fillers, batch, request, stop):
                for filler in fillers:
                    filler.take(i, vectors)
                amount = _amount(chunk, i)
                done += amount
                progress.advance(amount)
            if fillers[0].idle:
                complete = number, done
                if time.monotonic() - committed > COMMIT_SECONDS:
                    _commit(fillers, *complete)
                    committed = time.monotonic()
    except (Stopped, NotFinite, OutOfMemory):
        if complete[0] > first:
            _commit(fillers, *complete)
        raise


def _commit(fillers: list[RowFiller], batches: int, done: Amount) -> None:
    for filler in fillers:
        filler.sink.commit(batches, done)


def _amount(chunk: ChunkBatches, i: int) -> Amount:
    """Count what piece `i` adds: residues, and with its last piece the record. Copies do not count."""
    piece = chunk.pieces[i]
    return Amount(int(piece.stop == chunk.embedded(piece.record)), piece.fresh)


def _run(
    model: Embedder,
    chunk: ChunkBatches,
    fillers: list[RowFiller],
    batch: list[int],
    request: Request,
    stop: Stop,
) -> Iterator[tuple[int, dict[str, list[Floats]]]]:
    """Run a batch, in halves if memory is too small; yields each piece with its vectors by pooling."""
    tokens, weights = chunk.tokens(batch, model.alphabet)
    poolings = list(dict.fromkeys(filler.wanted(i) for filler in fillers for i in batch))
    try:
        with stop.abandoning():
            arrays = model.embed(tokens, weights, request.repr_layers, *poolings)
    except MemoryError:
        if len(batch) == 1:
            raise OutOfMemory(
                f"{chunk.name(chunk.pieces[batch[0]].record)}: {chunk.pieces[batch[0]].length:,} residues "
                "at once do not fit into memory; use --long window with a smaller --max-length"
            ) from None
        half = len(batch) // 2
        yield from _run(model, chunk, fillers, batch[:half], request, stop)
        yield from _run(model, chunk, fillers, batch[half:], request, stop)
        return
    n_layers = len(request.repr_layers)
    for row, i in enumerate(batch):
        vectors = [np.atleast_2d(values[row])[: chunk.pieces[i].length] for values in arrays]
        yield i, {pooling: vectors[k * n_layers :][:n_layers] for k, pooling in enumerate(poolings)}
