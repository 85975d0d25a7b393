"""The main loop: chunks of records are cut into pieces, run in batches, and their rows filled in the outputs.

Legend: B batch, T tokens, D width, L embedded residues of a record, l residues of a piece.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from protrna_cli.errors import InputError, InputUnreadable, NotFinite, OutOfMemory, Stopped, WorkersLost
from protrna_cli.fasta.copies import Copies
from protrna_cli.fasta.records import UNKNOWN, Record, Skipped, rows_of
from protrna_cli.model.alphabet import Alphabet, Floats, Tokens
from protrna_cli.output.rows import Values
from protrna_cli.plan.pieces import Piece, Row, blend, cut, embedded_length, into_chunks, pack
from protrna_cli.plan.rules import POOLINGS, RESIDUES
from protrna_cli.run.auto import Work
from protrna_cli.run.options import EmbedOptions
from protrna_cli.run.outputs import Position
from protrna_cli.run.report import NOTHING, Amount, Progress, Stop
from protrna_cli.run.workers import Embedder, Pending
from protrna_cli.text import shortened

ALPHABET = Alphabet()

COMMIT_SECONDS = 30.0
"""Time between commits: the most work that a crash can cost, besides the running batch."""

JOINED = {RESIDUES: RESIDUES, **{name: pooling.windows for name, pooling in POOLINGS.items()}}
"""How the vectors of the windows of a record are joined, by pooling."""

OF_RESIDUES: dict[str | None, Callable[[Floats], Values]] = {
    "mean": lambda residues: residues.mean(axis=0, dtype=np.float64),
    "max": lambda residues: residues.max(axis=0),
}
"""Poolings of residues (n, D) into one vector (D,), for a region, or for the joined residues of a record."""


class Chunk:
    """One chunk of an input; a record is an index in it.

    number: its number in the input, from 0.
    items: its records, and those that are left out.
    """

    def __init__(
        self, number: int, items: Sequence[Record | Skipped], copies: Copies, options: EmbedOptions
    ) -> None:
        self.number = number
        self.records = [item for item in items if isinstance(item, Record)]
        self.skipped = [item for item in items if isinstance(item, Skipped)]
        self.running, self.copied, self.n_reused, self._starts = copies.assign(self.records)
        self._rules, self._budget = options.rules, options.budget

    @cached_property
    def _cuts(self) -> dict[int, list[Piece]]:
        return {record: cut(record, self.records[record].length, self._rules) for record in self.running}

    @cached_property
    def pieces(self) -> list[Piece]:
        """The pieces that run."""
        return [piece for pieces in self._cuts.values() for piece in pieces]

    @cached_property
    def batches(self) -> list[list[int]]:
        """The batches in which they run, each a list of indices into `pieces`."""
        return pack([piece.length for piece in self.pieces], self._budget)

    @cached_property
    def shares(self) -> list[Floats]:
        """Share (l,) of each piece in each residue that it covers."""
        return [share for pieces in self._cuts.values() for share in blend(pieces)]

    def amount(self, batches: Sequence[list[int]] | None = None) -> Amount:
        """Count the records that run, and their residues; of these batches only, or of all.

        A record counts with its last piece. Copies do not count.
        """
        if batches is None:
            lengths = [self.embedded(record) for record in self.running]
            return Amount(len(lengths), sum(lengths))
        pieces = [self.pieces[i] for batch in batches for i in batch]
        finished = sum(piece.stop == self.embedded(piece.record) for piece in pieces)
        return Amount(finished, sum(piece.fresh for piece in pieces))

    def span(self, record: int, per_token: bool) -> tuple[int, int]:
        """Where the vectors of a record are in an output: the index of the first, and that after the last."""
        return self._starts[record][per_token], self._starts[record + 1][per_token]

    def embedded(self, record: int) -> int:
        """Count the embedded residues of a record."""
        return embedded_length(self.records[record].length, self._rules)

    def n_pieces(self, i: int) -> int:
        """Count the pieces of the record that piece `i` belongs to."""
        return len(self._cuts[self.pieces[i].record])

    def name(self, record: int) -> str:
        """Name a record for a message."""
        return f"record {self.records[record].number} (id {shortened(self.records[record].id)})"

    def token_counts(self, batch: list[int]) -> list[int]:
        """Count the tokens of each piece of a batch, with `<cls>` and `<eos>`."""
        return [self.pieces[i].length + 2 for i in batch]

    def split(self, batch: list[int], fits: int) -> list[list[int]]:
        """Split a batch in halves until each has at most `fits` tokens, or one piece; 0 is no bound."""
        if not fits or len(batch) == 1 or sum(self.token_counts(batch)) <= fits:
            return [batch]
        half = len(batch) // 2
        return [*self.split(batch[:half], fits), *self.split(batch[half:], fits)]

    def tokens(self, batch: list[int]) -> tuple[Tokens, Floats]:
        """Make the tokens (B, T) of a batch, and the weight (B, T) of each token in its record's mean."""
        pieces = [self.pieces[i] for i in batch]
        letters = (self.records[piece.record].sequence[piece.start : piece.stop] for piece in pieces)
        tokens = ALPHABET.frame([ALPHABET.residue_ids(text) for text in letters])
        weights = np.zeros(tokens.shape, np.float32)
        for row, i in zip(weights, batch, strict=True):
            piece, share = self.pieces[i], self.shares[i]
            mask = self.mean_mask(piece.record)
            row[1 : len(share) + 1] = share * mask[piece.start : piece.stop] / int(mask.sum())
        return tokens, weights

    def mean_mask(self, record: int) -> npt.NDArray[np.bool_]:
        """Mark the embedded residues (L,) of a record that count in its mean: all, or only the known ones."""
        if not self._rules.skip_unknown:
            return np.ones(self.embedded(record), bool)
        letters = self.records[record].sequence[: self.embedded(record)]
        return np.not_equal(np.frombuffer(letters.encode(), np.uint8), ord(UNKNOWN))


class Output(Protocol):
    """Where the rows of a run go, chunk by chunk in input order."""

    # Whether it has one vector per residue, and if not, how they are pooled: `mean`, `max` or `cls`.
    per_token: bool
    pooling: str | None
    position: Position  # how far it got: batches before it are not run again

    def add(self, rows: list[Row], skipped: Sequence[Skipped]) -> None:
        """Take the rows of the next chunk, from the first chunk on, also of those before the position."""

    def fill(self, layer: int, start: int, vectors: Values) -> None:
        """Write vectors (n, D) of the `layer`-th layer of the output, from vector `start` on."""

    def read(self, layer: int, start: int, count: int) -> Values:
        """Read vectors (count, D) of an earlier chunk; called only if the run copies from there."""

    def commit(self, position: Position) -> None:
        """Make everything durable that was filled up to a position."""


class _Part(NamedTuple):
    """Pieces that were submitted together, the poolings that the model does for them, and their vectors."""

    pieces: list[int]
    poolings: list[str]
    vectors: Pending


class _Batch(NamedTuple):
    """A batch that was submitted, in parts that fit into memory; without any, the end of its chunk."""

    chunk: Chunk
    parts: Sequence[_Part] = ()


class Loop:
    """Runs records through a model, and fills their rows in the outputs.

    options: with the budget, and the layers as indices.
    copies: finds records with the sequence of another one; by default within a chunk.

    work: the batches that ran.
    n_reused: records whose vectors are taken from an earlier output.
    fits: tokens at once that fit into memory, if it ran out; otherwise 0.
    """

    def __init__(
        self,
        model: Embedder,
        outputs: Sequence[Output],
        options: EmbedOptions,
        copies: Copies | None = None,
    ) -> None:
        self._model, self._outputs, self._options = model, outputs, options
        self._copies = copies or Copies(options.rules)
        self.work = Work()
        self.n_reused = 0
        self.fits = min((output.position.fits for output in outputs if output.position.fits), default=0)

    def run(self, items: Iterable[Record | Skipped], progress: Progress, stop: Stop) -> None:
        """Embed records, from the positions of the outputs on.

        items: in input order. Only the chunks whose batches run, or are submitted ahead, are in memory.
        """
        self._progress, self._stop = progress, stop
        before = NOTHING
        for chunk, batches in groupby(self._ahead(self._batches(items)), attrgetter("chunk")):
            for output in self._outputs:
                rows = (rows_of(record, self._options.rules, output.per_token) for record in chunk.records)
                output.add([row for of_record in rows for row in of_record], chunk.skipped)
            if outputs := self._unfinished(chunk):
                self._stop.check()
                self._fill(chunk, batches, outputs, before)
            before += chunk.amount()

    def _unfinished(self, chunk: Chunk) -> list[Output]:
        return [output for output in self._outputs if output.position.chunks <= chunk.number]

    def _ahead(self, batches: Iterable[_Batch]) -> Iterator[_Batch]:
        """Submit batches of the model's number ahead, those of the next chunk too."""
        waiting: deque[_Batch] = deque()
        for batch in batches:
            waiting.append(batch)
            if len(waiting) > self._model.ahead:
                yield waiting.popleft()
        yield from waiting

    def _batches(self, items: Iterable[Record | Skipped]) -> Iterator[_Batch]:
        """Cut the records into chunks, and submit the batches that are not finished in all outputs."""
        for number, chunk_items in enumerate(into_chunks(items)):
            self._stop.check()
            chunk = Chunk(number, chunk_items, self._copies, self._options)
            self.n_reused += chunk.n_reused
            for batch in chunk.batches[self._first(chunk) :] if self._unfinished(chunk) else ():
                self.work.add(chunk.token_counts(batch))
                yield _Batch(chunk, self._submit(chunk, chunk.split(batch, self.fits)))
            yield _Batch(chunk)

    def _first(self, chunk: Chunk) -> int:
        """Index of the first batch that runs; an output that is further ahead gets the same ones again."""
        return min(output.position.batches_of(chunk.number) for output in self._unfinished(chunk))

    def _submit(self, chunk: Chunk, parts: Iterable[list[int]]) -> list[_Part]:
        submitted = []
        for pieces in parts:
            tokens, weights = chunk.tokens(pieces)
            joined = [self._joined_as(output) for output in self._unfinished(chunk)]
            poolings = list(dict.fromkeys(wanted(pooling, chunk, i) for pooling in joined for i in pieces))
            vectors = self._model.submit(tokens, weights, self._options.layer_numbers, *poolings)
            submitted.append(_Part(pieces, poolings, vectors))
        return submitted

    def _joined_as(self, output: Output) -> str:
        """Say what the pieces of a record give together; regions are pooled here, from the residues."""
        pooled = None if output.per_token or self._options.rules.regions else output.pooling
        return pooled or RESIDUES

    def _fill(
        self, chunk: Chunk, batches: Iterable[_Batch], outputs: Sequence[Output], before: Amount
    ) -> None:
        """Fill the rows of a chunk, batch by batch, with commits."""
        first = self._first(chunk)
        fillers = [Filler(output, chunk, self._joined_as(output), self._options) for output in outputs]
        done = before + chunk.amount(chunk.batches[:first])
        complete, committed = _position(chunk.number, first, done), time.monotonic()
        try:
            for number, batch in enumerate(batches, start=first + 1):
                for part, arrays in self._results(chunk, batch.parts):
                    for i, vectors in self._by_piece(chunk, part, arrays):
                        for filler in fillers:
                            filler.take(i, vectors)
                    amount = chunk.amount([part.pieces])
                    done += amount
                    self._progress.advance(amount)
                if batch.parts and fillers[0].idle:
                    complete = _position(chunk.number, number, done)
                    if time.monotonic() - committed > COMMIT_SECONDS:
                        self._commit(outputs, complete)
                        committed = time.monotonic()
        except (Stopped, NotFinite, OutOfMemory, WorkersLost, InputError, InputUnreadable):
            if complete.batches > first:
                self._commit(outputs, complete)
            raise
        self._commit(outputs, _position(chunk.number + 1, 0, before + chunk.amount()))

    def _commit(self, outputs: Sequence[Output], position: Position) -> None:
        for output in outputs:
            output.commit(replace(position, reused=output.position.reused, fits=self.fits))

    def _results(self, chunk: Chunk, parts: Iterable[_Part]) -> Iterator[tuple[_Part, list[Floats]]]:
        """Wait for parts of a batch; one for which memory is too small runs again in halves."""
        for part in parts:
            try:
                with self._stop.abandoning():
                    arrays = part.vectors()
            except MemoryError:
                self._halve(chunk, part.pieces)
                halves = chunk.split(part.pieces, self.fits)
                yield from self._results(chunk, self._submit(chunk, halves))
            else:
                yield part, arrays

    def _halve(self, chunk: Chunk, batch: list[int]) -> None:
        """Run fewer tokens at once from now on; raises OutOfMemory if the batch is a single piece."""
        if len(batch) == 1:
            piece = chunk.pieces[batch[0]]
            raise OutOfMemory(
                f"{chunk.name(piece.record)}: {piece.length:,} residues at once do not fit into memory; "
                "use --long window with a smaller --max-length"
            ) from None
        tokens = sum(chunk.token_counts(batch))
        if not self.fits or tokens <= self.fits:  # otherwise it was submitted before the last halving
            self.fits = tokens // 2
            self._progress.note(
                f"memory ran out with {tokens:,} tokens in a batch; going on with {self.fits:,}"
            )

    def _by_piece(
        self, chunk: Chunk, part: _Part, arrays: list[Floats]
    ) -> Iterator[tuple[int, dict[str, list[Floats]]]]:
        """Yield each piece of a part with its vectors by pooling."""
        n_layers = len(self._options.layer_numbers)
        for row, i in enumerate(part.pieces):
            vectors = [np.atleast_2d(values[row])[: chunk.pieces[i].length] for values in arrays]
            yield i, {pooling: vectors[k * n_layers :][:n_layers] for k, pooling in enumerate(part.poolings)}


def _position(chunks: int, batches: int, done: Amount) -> Position:
    return Position(chunks, batches, done.records, done.residues)


def wanted(pooling: str, chunk: Chunk, i: int) -> str:
    """Pooling that the model must do for piece `i`."""
    return RESIDUES if JOINED[pooling] == RESIDUES and chunk.n_pieces(i) > 1 else pooling


class Filler:
    """Fills the rows of a chunk in one output: joins the pieces of a record, pools its regions, writes.

    Copies of earlier rows are filled at once.
    """

    def __init__(self, output: Output, chunk: Chunk, pooling: str, options: EmbedOptions) -> None:
        self._output, self._chunk, self._pooling, self._dtype = output, chunk, pooling, options.dtype
        self._open: dict[int, list[Floats]] = {}
        self._missing: dict[int, int] = {}
        by_id = options.rules.regions.by_id if options.rules.regions and not output.per_token else {}
        self._regions = [by_id.get(record.id, []) for record in chunk.records]
        for record, first in chunk.copied.items():
            start, stop = chunk.span(record, output.per_token)
            for layer in range(len(options.layer_numbers)):
                vectors = output.read(layer, first[output.per_token], stop - start)
                output.fill(layer, start, vectors)

    @property
    def idle(self) -> bool:
        """Whether no record is waiting for more pieces."""
        return not self._open

    def take(self, i: int, vectors: dict[str, list[Floats]]) -> None:
        """Take the vectors of piece `i`; the last one fills the rows of its record and of equal records."""
        record = self._chunk.pieces[i].record
        joined = self._join(i, vectors[wanted(self._pooling, self._chunk, i)])
        if joined is None:
            return
        for equal in self._chunk.running[record]:
            start, _ = self._chunk.span(equal, self._output.per_token)
            for layer, values in enumerate(joined):
                with np.errstate(over="ignore"):
                    rows = self._pooled(equal, record, values).astype(self._dtype)
                if not np.isfinite(rows).all():
                    wider = "try --dtype float32, and " if self._dtype == "float16" else ""
                    raise NotFinite(
                        f"{self._chunk.name(record)}: its embedding is not finite in {self._dtype}; "
                        f"{wider}check the checkpoint (--model)"
                    )
                self._output.fill(layer, start, rows)

    def _join(self, i: int, vectors: list[Floats]) -> list[Floats] | None:
        """Take the vectors of a piece, (1, D) or (l, D) a layer; the last one returns those of its record."""
        piece, count = self._chunk.pieces[i], self._chunk.n_pieces(i)
        if count == 1:
            return vectors
        length, span = 1, slice(0, 1)
        # The weights of a mean include the shares.
        factor: float | Floats = 1.0 if JOINED[self._pooling] == "sum" else 1 / count
        if over_residues := JOINED[self._pooling] == RESIDUES:
            length, span = self._chunk.embedded(piece.record), slice(piece.start, piece.stop)
            factor = self._chunk.shares[i][:, None]
        whole = self._open.setdefault(
            piece.record, [np.zeros((length, values.shape[1]), np.float32) for values in vectors]
        )
        for joined, part in zip(whole, vectors, strict=True):
            joined[span] += factor * part
        self._missing[piece.record] = self._missing.get(piece.record, count) - 1
        if self._missing[piece.record]:
            return None
        del self._open[piece.record]
        if over_residues and self._pooling != RESIDUES:
            return [OF_RESIDUES[self._pooling](values)[None] for values in whole]
        return whole

    def _pooled(self, record: int, ran: int, vectors: Floats) -> Values:
        """Pool residues (L, D) into one row (D,) per region of a record, if it has regions."""
        if not self._regions[record]:
            return vectors
        mask = self._chunk.mean_mask(ran)
        spans = [slice(region.start, region.stop) for region in self._regions[record]]
        pool = OF_RESIDUES[self._output.pooling]
        return np.stack([pool(vectors[span][mask[span]]) for span in spans])
