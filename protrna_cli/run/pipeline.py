"""The main loop: chunks of records are cut into pieces, run in batches, and go to the sinks in input order.

Legend: B batch, T tokens, D width.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice, takewhile
from typing import NamedTuple, Protocol

import numpy as np

from protrna_cli.errors import InputError, InputUnreadable, NotFinite, OutOfMemory, Stopped, WorkersLost
from protrna_cli.fasta.copies import Assignment, Copies
from protrna_cli.fasta.records import Record, Skipped, rows_of
from protrna_cli.output.rows import Values
from protrna_cli.plan.chunks import into_chunks
from protrna_cli.plan.pieces import embedded_length
from protrna_cli.plan.rows import Row
from protrna_cli.plan.rules import Rules
from protrna_cli.run.batching import RESIDUES, ChunkBatches, Floats, Joiner
from protrna_cli.run.embedder import Embedder, Pending
from protrna_cli.run.journal import Position
from protrna_cli.run.report import NOTHING, Amount, Progress
from protrna_cli.run.stop import Stop
from protrna_cli.run.work import Work

COMMIT_SECONDS = 30.0
"""Time between commits: the most work that a crash can cost, besides the running batch."""


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

    def halve(self, fits: int) -> None:
        """Record that memory ran out, and how many tokens at once fit into it."""

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
        Records and skipped records, in input order. Only the chunks whose batches run, or are submitted
        ahead, are in memory.
    copies
        Finds records with the sequence of another one; by default within a chunk.

    Returns
    -------
    Work
        The batches that ran.
    """
    known = [each.sink.position.fits for each in products if each.sink.position.fits]
    work = Work(fits=min(known, default=0))
    chunks = _unfinished(items, products, request, copies or Copies(request.rules), work, stop)
    jobs = _submit_ahead(chunks, model, request, work)
    for job in jobs:
        stop.check()
        chunk = job.chunk
        fillers = [RowFiller(product, chunk, request) for product in chunk.products]
        # The jobs of a chunk end with one that has no parts.
        of_chunk = takewhile(lambda each: each.parts, chain([job], jobs))
        _fill(chunk, fillers, of_chunk, model, request, work, progress, stop)
        for product in chunk.products:
            product.sink.close_chunk(chunk.done_after)
    return work


@dataclass(frozen=True)
class _Chunk:
    """A chunk that is not finished in all outputs.

    Attributes
    ----------
    batches
        The pieces that run, in batches.
    first
        How many batches need not run again.
    products
        The outputs that it is not finished in.
    done_before, done_after
        What is done before its first batch that runs, and after its last one.
    """

    records: list[Record]
    skipped: list[Skipped]
    assignment: Assignment
    batches: ChunkBatches
    first: int
    products: list[Product]
    done_before: Amount
    done_after: Amount


class _Part(NamedTuple):
    """Pieces that were submitted together, the poolings that the model does for them, and their vectors."""

    pieces: list[int]
    poolings: list[str]
    vectors: Pending


class _Job(NamedTuple):
    """A batch that was submitted, in parts that fit into memory; without any, the end of a chunk."""

    chunk: _Chunk
    parts: Sequence[_Part] = ()


def _unfinished(
    items: Iterable[Record | Skipped],
    products: Sequence[Product],
    request: Request,
    copies: Copies,
    work: Work,
    stop: Stop,
) -> Iterator[_Chunk]:
    """Cut the records into chunks; those that are finished in all outputs are left out."""
    done = NOTHING
    for number, chunk_items in enumerate(into_chunks(items)):
        stop.check()
        records = [item for item in chunk_items if isinstance(item, Record)]
        # The sinks may still be at an earlier chunk, if this one is submitted ahead.
        unfinished = [product for product in products if product.sink.position.chunks <= number]
        before, assignment = done, copies.assign(records)
        work.n_reused += assignment.n_reused
        lengths = [embedded_length(records[i].length, request.rules) for i in assignment.running]
        done += Amount(len(lengths), sum(lengths))
        if not unfinished:
            continue
        batches = ChunkBatches(records, assignment.running, request.rules, request.max_tokens)
        # A sink that is further ahead gets the same batches again.
        first = min(product.sink.position.batches_of(number) for product in unfinished)
        for batch in batches.batches[first:]:
            work.add(batches.token_counts(batch))
        before = sum((_amount(batches, i) for batch in batches.batches[:first] for i in batch), before)
        skipped = [item for item in chunk_items if isinstance(item, Skipped)]
        yield _Chunk(records, skipped, assignment, batches, first, unfinished, before, done)


def _submit_ahead(chunks: Iterable[_Chunk], model: Embedder, request: Request, work: Work) -> Iterator[_Job]:
    """Submit batches in order, and those of the next chunk before the last ones of a chunk are done."""
    waiting: deque[_Job] = deque()
    for chunk in chunks:
        for batch in chunk.batches.batches[chunk.first :]:
            parts = chunk.batches.split(batch, work.fits)
            waiting.append(_Job(chunk, _submit(model, chunk, parts, request)))
            if len(waiting) > model.ahead:
                yield waiting.popleft()
        waiting.append(_Job(chunk))
        if len(waiting) > model.ahead:
            yield waiting.popleft()
    yield from waiting


def _submit(model: Embedder, chunk: _Chunk, parts: Sequence[list[int]], request: Request) -> list[_Part]:
    """Submit parts of a batch."""
    submitted = []
    for pieces in parts:
        tokens, weights = chunk.batches.tokens(pieces, model.alphabet)
        poolings = _poolings(chunk, pieces, request)
        vectors = model.submit(tokens, weights, request.repr_layers, *poolings)
        submitted.append(_Part(pieces, poolings, vectors))
    return submitted


def _poolings(chunk: _Chunk, batch: list[int], request: Request) -> list[str]:
    """List the poolings that the model must do for a batch, each once."""
    joined = [_joined_as(product, request.rules) for product in chunk.products]
    return list(dict.fromkeys(wanted(pooling, chunk.batches, i) for pooling in joined for i in batch))


def _joined_as(product: Product, rules: Rules) -> str:
    """As what the pieces of a record are joined: regions are pooled here, from the residues."""
    return RESIDUES if rules.regions else product.pooling


def wanted(pooling: str, batches: ChunkBatches, i: int) -> str:
    """Pooling that the model must do for piece `i`."""
    # The maximum of a record in pieces is taken over its joined residues, so all of them are needed.
    return RESIDUES if pooling == "max" and batches.piece_count(i) > 1 else pooling


class RowFiller:
    """Fills the rows of one product in one chunk.

    Copies of earlier rows are filled at once. For the others, pieces are taken from the model, joined and
    pooled.
    """

    def __init__(self, product: Product, chunk: _Chunk, request: Request) -> None:
        records, assignment = chunk.records, chunk.assignment
        per_token = product.pooling == RESIDUES
        rows = [rows_of(record, request.rules, per_token) for record in records]
        starts = product.sink.open_chunk([row for each in rows for row in each], chunk.skipped)
        firsts = accumulate(map(len, rows), initial=0)
        self._starts = [starts[first] for first in islice(firsts, len(rows))]
        by_id = {} if per_token or not request.rules.regions else request.rules.regions.by_id
        self._regions = [by_id.get(record.id, []) for record in records]
        self._joiner = Joiner(chunk.batches, _joined_as(product, request.rules))
        self._chunk, self._dtype = chunk.batches, request.dtype
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

    def take(self, i: int, vectors: dict[str, list[Floats]]) -> None:
        """Take the vectors of piece `i`; the last one fills the rows of its record and of equal records."""
        joined = self._joiner.add(i, vectors[wanted(self._joiner.pooling, self._chunk, i)])
        if joined is None:
            return
        record = self._chunk.pieces[i].record
        for place in self._equal[record]:
            for layer, each in enumerate(joined):
                with np.errstate(over="ignore"):
                    row = self._pooled(place, record, each).astype(self._dtype)
                if not np.isfinite(row).all():
                    wider = "try --dtype float32, and " if self._dtype == "float16" else ""
                    raise NotFinite(
                        f"{self._chunk.name(record)}: its embedding is not finite in {self._dtype}; "
                        f"{wider}check the checkpoint (--model)"
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


def _fill(
    chunk: _Chunk,
    fillers: list[RowFiller],
    jobs: Iterable[_Job],
    model: Embedder,
    request: Request,
    work: Work,
    progress: Progress,
    stop: Stop,
) -> None:
    """Fill the rows of a chunk, batch by batch, with commits."""
    done = chunk.done_before
    complete, committed = (chunk.first, done), time.monotonic()

    def results(parts: Sequence[_Part]) -> Iterator[tuple[_Part, list[Floats]]]:
        """Wait for parts of a batch; one for which memory is too small runs again in halves."""
        for part in parts:
            try:
                with stop.abandoning():
                    arrays = part.vectors()
            except MemoryError:
                _halve(chunk, part.pieces, fillers, work, progress)
                halves = chunk.batches.split(part.pieces, work.fits)
                yield from results(_submit(model, chunk, halves, request))
            else:
                yield part, arrays

    try:
        for number, job in enumerate(jobs, start=chunk.first + 1):
            for part, arrays in results(job.parts):
                for i, vectors in _by_piece(chunk.batches, part, arrays, len(request.repr_layers)):
                    for filler in fillers:
                        filler.take(i, vectors)
                    amount = _amount(chunk.batches, i)
                    done += amount
                    progress.advance(amount)
            if fillers[0].idle:
                complete = number, done
                if time.monotonic() - committed > COMMIT_SECONDS:
                    _commit(fillers, *complete)
                    committed = time.monotonic()
    except (Stopped, NotFinite, OutOfMemory, WorkersLost, InputError, InputUnreadable):
        if complete[0] > chunk.first:
            _commit(fillers, *complete)
        raise


def _halve(chunk: _Chunk, batch: list[int], fillers: list[RowFiller], work: Work, progress: Progress) -> None:
    """Run fewer tokens at once from now on; raises OutOfMemory if the batch is a single piece."""
    if len(batch) == 1:
        piece = chunk.batches.pieces[batch[0]]
        raise OutOfMemory(
            f"{chunk.batches.name(piece.record)}: {piece.length:,} residues at once do not fit into memory; "
            "use --long window with a smaller --max-length"
        ) from None
    tokens = sum(chunk.batches.token_counts(batch))
    if not work.fits or tokens <= work.fits:  # otherwise it was submitted before the last halving
        work.fits = tokens // 2
        progress.note(f"memory ran out with {tokens:,} tokens in a batch; going on with {work.fits:,}")
        for filler in fillers:
            filler.sink.halve(work.fits)


def _commit(fillers: list[RowFiller], batches: int, done: Amount) -> None:
    for filler in fillers:
        filler.sink.commit(batches, done)


def _amount(batches: ChunkBatches, i: int) -> Amount:
    """Count what piece `i` adds: residues, and with its last piece the record. Copies do not count."""
    piece = batches.pieces[i]
    return Amount(int(piece.stop == batches.embedded(piece.record)), piece.fresh)


def _by_piece(
    batches: ChunkBatches, part: _Part, arrays: list[Floats], n_layers: int
) -> Iterator[tuple[int, dict[str, list[Floats]]]]:
    """Yield each piece of a part with its vectors by pooling."""
    for row, i in enumerate(part.pieces):
        vectors = [np.atleast_2d(values[row])[: batches.pieces[i].length] for values in arrays]
        yield i, {pooling: vectors[k * n_layers :][:n_layers] for k, pooling in enumerate(part.poolings)}
