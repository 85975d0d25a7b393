"""The one loop: records to windows, to pieces, to batches, through the model, into the sink in input order.

Legend: B batch, T tokens, L embedded residues of a record, l residues of a piece, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from protrna_cli import plan
from protrna_cli.alphabet import Alphabet, Tokens
from protrna_cli.output.rows import Row, Values
from protrna_cli.records import Record, Skipped
from protrna_cli.report import Progress
from protrna_cli.rules import Rules

Floats = npt.NDArray[np.float32]


class Embedder(Protocol):
    """What the loop asks of a model."""

    alphabet: Alphabet

    def embed(
        self, tokens: Tokens, weights: Floats, repr_layers: Sequence[int], pooling: str
    ) -> list[Floats]:
        """Embed a batch, one array a layer; see `ProtRNA.embed`."""


class Sink(Protocol):
    """Where rows go: announced in input order, filled in any."""

    def skip(self, record: Skipped) -> None:
        """Note a record that is left out."""

    def announce(self, rows: list[Row]) -> list[int]:
        """Add rows; returns the place of each row's first vector."""

    def fill(self, layer: int, start: int, vectors: Values) -> None:
        """Write the vectors of one row, of one layer."""


class Task:
    """The work of one window: every different sequence once, cut into pieces, packed into batches.

    Attributes
    ----------
    places
        First record of a sequence to all records of that sequence; places in the window.
    pieces, batches
        What runs, and what runs together: each batch lists places in `pieces`.
    """

    def __init__(self, window: list[Record], rules: Rules, max_tokens: int) -> None:
        self._window = window
        self.places: dict[int, list[int]] = {}
        first: dict[str, int] = {}
        for place, record in enumerate(window):
            self.places.setdefault(first.setdefault(record.sequence, place), []).append(place)
        cuts = {place: plan.cut(place, window[place].length, rules) for place in self.places}
        self.pieces = [piece for pieces in cuts.values() for piece in pieces]
        self.batches = plan.batches([piece.length for piece in self.pieces], max_tokens)
        self._shares = [share for pieces in cuts.values() for share in plan.blend(pieces)]
        self._counts = {place: len(pieces) for place, pieces in cuts.items()}
        self._lengths = {place: pieces[-1].stop for place, pieces in cuts.items()}

    def count(self, i: int) -> int:
        """Pieces of the record that piece `i` is of."""
        return self._counts[self.pieces[i].record]

    def embedded(self, i: int) -> int:
        """Embedded residues of the record that piece `i` is of."""
        return self._lengths[self.pieces[i].record]

    def share(self, i: int) -> Floats:
        """Share (l,) of piece `i` in the residues that it covers."""
        return self._shares[i]

    def tokens(self, batch: list[int], alphabet: Alphabet) -> tuple[Tokens, Floats]:
        """Tokens (B, T) of a batch, and the weight (B, T) of each in its record's mean."""
        pieces = [self.pieces[i] for i in batch]
        letters = (self._window[piece.record].sequence[piece.start : piece.stop] for piece in pieces)
        tokens = alphabet.frame([alphabet.encode(each) for each in letters])
        weights = np.zeros(tokens.shape, np.float32)
        for row, i in zip(weights, batch, strict=True):
            share = self._shares[i]
            row[1 : len(share) + 1] = share / self.embedded(i)
        return tokens, weights


class Joiner:
    """Puts the pieces of a record together; most records are one piece and pass through."""

    def __init__(self, task: Task, pooling: str) -> None:
        self._task = task
        self._pooling = pooling
        self._open: dict[int, list[Floats]] = {}
        self._missing: dict[int, int] = {}

    def add(self, i: int, vectors: list[Floats]) -> list[Floats] | None:
        """Take what the model made of piece `i`.

        Parameters
        ----------
        vectors
            One array a layer: (1, D), or (l, D) per token and for the maximum of a record in pieces.

        Returns
        -------
        list or None
            The record's vectors, (1, D) or (L, D) a layer, once its last piece is there.
        """
        piece, count = self._task.pieces[i], self._task.count(i)
        if count > 1:
            pooled = self._pooling in ("mean", "cls")
            length, place = (
                (1, slice(0, 1)) if pooled else (self._task.embedded(i), slice(piece.start, piece.stop))
            )
            # A mean's shares are in its weights already; the <cls> of a record is the mean of its pieces'.
            factor = {"mean": 1.0, "cls": 1 / count}.get(self._pooling, self._task.share(i)[:, None])
            whole = self._open.setdefault(
                piece.record, [np.zeros((length, each.shape[1]), np.float32) for each in vectors]
            )
            for joined, part in zip(whole, vectors, strict=True):
                joined[place] += factor * part
            self._missing[piece.record] = self._missing.get(piece.record, count) - 1
            if self._missing[piece.record]:
                return None
            vectors = self._open.pop(piece.record)
        if self._pooling == "max":
            return [each.max(axis=0, keepdims=True) for each in vectors]
        return vectors


def embed(
    records: Iterable[Record | Skipped],
    model: Embedder,
    sink: Sink,
    progress: Progress,
    rules: Rules,
    *,
    repr_layers: Sequence[int],
    pooling: str,
    max_tokens: int,
) -> int:
    """Embed records into a sink; returns how many tokens ran, padding left out.

    Parameters
    ----------
    records
        In input order. No more than one window of them is held at a time.
    repr_layers, pooling
        As `ProtRNA.embed` takes them.
    max_tokens
        Budget of a batch in tokens, padding included.
    """
    tokens = 0
    for window in plan.windows(_kept(records, sink)):
        task = Task(window, rules, max_tokens)
        starts = sink.announce([_row(record, rules) for record in window])
        joiner = Joiner(task, pooling)
        for batch in task.batches:
            for i, vectors in zip(batch, _run(model, task, batch, repr_layers, pooling), strict=True):
                places = task.places[task.pieces[i].record]
                joined = joiner.add(i, vectors)
                if joined is not None:
                    for place in places:
                        for layer, each in enumerate(joined):
                            sink.fill(layer, starts[place], each)
                    progress.advance(len(places), 0)
                progress.advance(0, task.pieces[i].fresh * len(places))
                tokens += task.pieces[i].length + 2
    return tokens


def _kept(records: Iterable[Record | Skipped], sink: Sink) -> Iterator[Record]:
    for record in records:
        if isinstance(record, Skipped):
            sink.skip(record)
        else:
            yield record


def _row(record: Record, rules: Rules) -> Row:
    return Row(
        record.id,
        record.description,
        record.length,
        plan.embedded_length(record.length, rules),
        record.n_unknown,
        len(plan.cut(0, record.length, rules)),
    )


def _run(
    model: Embedder, task: Task, batch: list[int], repr_layers: Sequence[int], pooling: str
) -> Iterator[list[Floats]]:
    """Run a batch; yields what `Joiner.add` takes of each of its pieces."""
    tokens, weights = task.tokens(batch, model.alphabet)
    # The maximum of a record in pieces is that of its joined residues, so that they are needed.
    residues = pooling == "none" or (pooling == "max" and any(task.count(i) > 1 for i in batch))
    layers = model.embed(tokens, weights, repr_layers, "none" if residues else pooling)
    for row, i in enumerate(batch):
        length = task.pieces[i].length if residues else 1
        yield [values[row].reshape(-1, values.shape[-1])[:length] for values in layers]
