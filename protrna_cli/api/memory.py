"""Embed sequences in memory: for notebooks and programs.

The keywords are those of `EmbedOptions` and `Rules`. Nothing is set up for the whole process: no signal
handlers, no logging, no settings of TensorFlow.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import numpy as np
import numpy.typing as npt

from protrna_cli.api.bar import any_bar
from protrna_cli.api.models import load_model
from protrna_cli.api.sequences import named_sequences
from protrna_cli.errors import UsageError
from protrna_cli.fasta.records import Record, Skipped, read_sequences
from protrna_cli.output.embeddings import Embedding
from protrna_cli.plan.pieces import embedded_length
from protrna_cli.plan.rules import TRAINED_LENGTH, Rules
from protrna_cli.plan.values import AUTO, instance, switch
from protrna_cli.run.auto import batch_tokens_of
from protrna_cli.run.in_memory import ChunkRows, embed_chunks
from protrna_cli.run.options import EmbedOptions
from protrna_cli.run.report import NOTHING, Amount, Progress
from protrna_cli.run.run import check_memory
from protrna_cli.text import counted
from protrna_cli.weights.names import PUBLISHED

if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import Unpack

    from protrna_cli.api.sequences import AnySequences
    from protrna_cli.model.transformer import ProtRNA
    from protrna_cli.plan.values import AnyPath

    OneLayer: TypeAlias = int | tuple[int]
    SeveralLayers: TypeAlias = tuple[int, int, Unpack[tuple[int, ...]]]

Floats = npt.NDArray[np.float32]
AnyVectors = Floats | list[Floats] | dict[int, Floats] | dict[int, list[Floats]]


class Keywords(TypedDict, total=False):
    """The keywords that do not change the type of the result."""

    pool: str
    precision: str | None
    long: str
    max_length: int
    overlap: int | None
    on_invalid: str
    gaps: str
    skip_unknown: bool
    batch_tokens: int | str
    progress: bool


class _How:
    """How to embed: the keywords, once they are checked."""

    def __init__(
        self,
        layers: int | Sequence[int],
        per_token: bool,
        pool: str,
        precision: str | None,
        batch_tokens: int | str,
        progress: bool,
        rules: Rules,
    ) -> None:
        switch("progress", progress)
        self._precision = precision
        self._progress = progress
        self._options = EmbedOptions(
            layers=tuple(layers) if isinstance(layers, Sequence) else (layers,),
            per_token=per_token,
            pool=pool,
            precision="float32" if precision is None else precision,
            batch_tokens=batch_tokens,
            rules=rules,
        )

    def ready(self, model: AnyPath | ProtRNA) -> _Ready:
        """Load the model, unless it is loaded, and resolve the layers for it."""
        if isinstance(model, (str, os.PathLike)):
            return _Ready(load_model(model, precision=self._options.precision), self._options, self._progress)
        from protrna_cli.model.transformer import ProtRNA  # imports TensorFlow

        instance("model", model, ProtRNA, "protrna, demo, the path of a checkpoint or a loaded model")
        if self._precision not in (None, model.precision):
            raise UsageError(
                f"precision={self._precision!r}, but the model was loaded in {model.precision}; leave it "
                "out, or load the model with this precision"
            )
        return _Ready(model, self._options, self._progress)


class _Ready:
    """A loaded model, and what to compute with it."""

    def __init__(self, model: ProtRNA, options: EmbedOptions, progress: bool) -> None:
        self.model = model
        self._layers = options.layers
        self._progress = progress
        if options.batch_tokens == AUTO:
            options = replace(options, batch_tokens=batch_tokens_of(model))
        self.options = replace(options, layers=model.size.layer_indices(options.layers))

    def chunks(self, items: Iterable[Record | Skipped], total: Amount) -> Iterator[ChunkRows]:
        """Embed records chunk by chunk, with a progress bar if it is wanted."""
        shown = any_bar() if self._progress else Progress()
        shown.start(total)
        try:
            yield from embed_chunks(self._fitting(items), self.model, self.options, shown)
        finally:
            shown.close()

    def _fitting(self, items: Iterable[Record | Skipped]) -> Iterator[Record | Skipped]:
        """Pass items through; raises UsageError at a record that does not fit into memory in one piece."""
        for item in items:
            if self.options.rules.long == "whole":
                check_memory(item.length, item.id, self.model.size)
            yield item

    def by_layer(self, found: Sequence[Any]) -> Any:
        """Give what was found for the layer, or for several layers a dict by layer as it was given."""
        if len(self._layers) == 1:
            return found[0]
        columns = {layer: self.model.size.layer_index(layer) for layer in self._layers}
        return {layer: found[self.options.layers.index(index)] for layer, index in columns.items()}


@overload
def embed(
    sequences: AnySequences,
    model: AnyPath | ProtRNA = ...,
    *,
    layers: OneLayer = ...,
    per_token: Literal[False] = ...,
    **how: Unpack[Keywords],
) -> Floats: ...


@overload
def embed(
    sequences: AnySequences,
    model: AnyPath | ProtRNA = ...,
    *,
    layers: OneLayer = ...,
    per_token: Literal[True],
    **how: Unpack[Keywords],
) -> list[Floats]: ...


@overload
def embed(
    sequences: AnySequences,
    model: AnyPath | ProtRNA = ...,
    *,
    layers: SeveralLayers,
    per_token: Literal[False] = ...,
    **how: Unpack[Keywords],
) -> dict[int, Floats]: ...


@overload
def embed(
    sequences: AnySequences,
    model: AnyPath | ProtRNA = ...,
    *,
    layers: SeveralLayers,
    per_token: Literal[True],
    **how: Unpack[Keywords],
) -> dict[int, list[Floats]]: ...


@overload
def embed(
    sequences: AnySequences,
    model: AnyPath | ProtRNA = ...,
    *,
    layers: int | Sequence[int],
    per_token: bool = ...,
    **how: Unpack[Keywords],
) -> AnyVectors: ...


def embed(
    sequences: AnySequences,
    model: AnyPath | ProtRNA = PUBLISHED,
    *,
    layers: int | Sequence[int] = -1,
    per_token: bool = False,
    pool: str = "mean",
    precision: str | None = None,
    long: str = "window",
    max_length: int = TRAINED_LENGTH,
    overlap: int | None = None,
    on_invalid: str = "error",
    gaps: str = "error",
    skip_unknown: bool = False,
    batch_tokens: int | str = AUTO,
    progress: bool = False,
) -> AnyVectors:
    """Embed sequences; returns their vectors in the same order.

    The rules and the numbers are those of `protrna embed` for the same records, bit for bit on one machine.

    Parameters
    ----------
    sequences
        RNA or DNA as text, `Bio.Seq.Seq` or `Bio.SeqRecord.SeqRecord`: a list or any other iterable of them,
        of pairs (id, sequence), or a mapping or pandas Series from ids to sequences. Ids are for messages.
    model
        A model from `load_model`, to use it many times; or `protrna`, `demo` or the path of a checkpoint,
        which is loaded for this call.
    layers
        Layer, or several: 0 is the embedding, negatives count from the end.
    per_token
        One vector per residue instead of one per sequence.
    pool
        `mean` or `max` over the residues, or `cls`; not for `per_token`.
    precision
        Precision of matrix multiplication, `float32` or `bfloat16`; by default that of `model`, or `float32`.
    long, max_length, overlap
        What to do with a sequence of more than `max_length` residues: `window` covers it with windows that
        share at least `overlap` residues (by default a quarter of `max_length`), `truncate`, `error`, `skip`
        or `whole`.
    on_invalid
        What to do with a letter that is neither residue nor gap: `error`, read it as `unknown`, or `skip` the
        sequence. A warning counts the sequences that are skipped; they have no row.
    gaps
        `error`, `remove` them, or read them as `unknown` residues.
    skip_unknown
        Leave unknown residues out of means.
    batch_tokens
        Token budget of a batch, or `auto`: by CPU threads, or by the free memory of the GPU.
    progress
        Show a progress bar, in a terminal or a notebook.

    Returns
    -------
    array, list or dict
        float32 (N, D); with `per_token` a list of N arrays (L, D). For several layers a dict with such a
        value for each layer, by its number as it was given.

    Raises
    ------
    InputError
        A sequence is not RNA or DNA under the rules; the message names its number, from 1, its id and the
        letter. Nothing has been computed then.
    UsageError
        An argument is not one that its option takes, or the model has no such layer.
    OutOfMemory, NotFinite
        A sequence cannot be embedded; the message names it.
    ProtrnaError
        As `load_model`, if `model` is a name or a path.

    Examples
    --------
    >>> from protrna_cli import embed
    >>> embed(["GGGGCCCC", "ACGU"], model="demo").shape
    (2, 320)
    >>> [vectors.shape for vectors in embed({"a": "GGGGCCCC", "b": "ACGU"}, model="demo", per_token=True)]
    [(8, 320), (4, 320)]
    >>> embed(["GGGGCCCC", "ACGU"], model="demo", layers=(3, -1))[3].shape
    (2, 320)
    """
    rules = Rules(on_invalid, gaps, long, max_length, overlap, skip_unknown)
    how = _How(layers, per_token, pool, precision, batch_tokens, progress, rules)
    items = list(read_sequences(named_sequences(sequences), rules))
    records = [item for item in items if isinstance(item, Record)]
    if len(records) < len(items):
        _warn_of_skipped([item for item in items if isinstance(item, Skipped)], len(items))
    total = Amount(len(records), sum(embedded_length(record.length, rules) for record in records))
    ready = how.ready(model)
    found: list[Any] = [[] for _ in ready.options.layers]
    if not per_token:
        found = [np.empty((len(records), ready.model.size.width), np.float32) for _ in found]
    done = 0
    for chunk in ready.chunks(items, total):
        for kept, vectors in zip(found, chunk.vectors, strict=True):
            if per_token:
                kept.extend(vectors)
            elif vectors:
                kept[done : done + len(vectors)] = np.concatenate(vectors)
        done += len(chunk.rows)
    result: AnyVectors = ready.by_layer(found)
    return result


@overload
def embed_iter(
    records: AnySequences,
    model: AnyPath | ProtRNA = ...,
    *,
    layers: OneLayer = ...,
    per_token: bool = ...,
    **how: Unpack[Keywords],
) -> Iterator[Embedding[Floats]]: ...


@overload
def embed_iter(
    records: AnySequences,
    model: AnyPath | ProtRNA = ...,
    *,
    layers: SeveralLayers,
    per_token: bool = ...,
    **how: Unpack[Keywords],
) -> Iterator[Embedding[dict[int, Floats]]]: ...


@overload
def embed_iter(
    records: AnySequences,
    model: AnyPath | ProtRNA = ...,
    *,
    layers: int | Sequence[int],
    per_token: bool = ...,
    **how: Unpack[Keywords],
) -> Iterator[Embedding[Any]]: ...


def embed_iter(
    records: AnySequences,
    model: AnyPath | ProtRNA = PUBLISHED,
    *,
    layers: int | Sequence[int] = -1,
    per_token: bool = False,
    pool: str = "mean",
    precision: str | None = None,
    long: str = "window",
    max_length: int = TRAINED_LENGTH,
    overlap: int | None = None,
    on_invalid: str = "error",
    gaps: str = "error",
    skip_unknown: bool = False,
    batch_tokens: int | str = AUTO,
    progress: bool = False,
) -> Iterator[Embedding[Any]]:
    """Embed a stream of sequences, which need not end; yields each with its vectors, in the same order.

    Memory does not grow with the stream: at most one chunk of it is held, which is 4,096 records or 1,048,576
    residues, whichever comes first. The first result comes when the first chunk is computed. With the
    published model, the vectors of a chunk take at most 20 MiB, or 5 GiB per token.

    Parameters
    ----------
    records
        As `sequences` in `embed`.
    model, layers, per_token, pool, precision, long, max_length, overlap, on_invalid, gaps, skip_unknown
        As in `embed`.
    batch_tokens, progress
        As in `embed`.

    Yields
    ------
    Embedding
        Id, description and counts of a record, and its `vectors`: float32 (D,), or (L, D) with `per_token`.
        For several layers a dict with such an array for each.

    Raises
    ------
    ProtrnaError
        As in `embed`, at the first record that breaks a rule: the chunks before it have been yielded.

    Examples
    --------
    >>> from Bio import SeqIO
    >>> from protrna_cli import embed_iter
    >>> with open("sample_data/readme.fa") as file:
    ...     for row in embed_iter(SeqIO.parse(file, "fasta"), model="demo"):
    ...         print(row.id, row.length, row.vectors.shape)
    seq0 169 (320,)
    seq1 82 (320,)
    seq2 100 (320,)
    """
    rules = Rules(on_invalid, gaps, long, max_length, overlap, skip_unknown)
    how = _How(layers, per_token, pool, precision, batch_tokens, progress, rules)
    return _embed_iter(how.ready(model), read_sequences(named_sequences(records), rules))


def _embed_iter(ready: _Ready, items: Iterator[Record | Skipped]) -> Iterator[Embedding[Any]]:
    for chunk in ready.chunks(items, NOTHING):
        if chunk.skipped:
            _warn_of_skipped(chunk.skipped, len(chunk.rows) + len(chunk.skipped))
        for i, row in enumerate(chunk.rows):
            vectors = [
                of_layer[i] if ready.options.per_token else of_layer[i][0] for of_layer in chunk.vectors
            ]
            yield Embedding.of(row, ready.by_layer(vectors))


def _warn_of_skipped(skipped: list[Skipped], of: int) -> None:
    text = f"{counted(len(skipped), 'sequence')} of {of:,} skipped, without a row; the first: {skipped[0]}"
    warnings.warn(text, stacklevel=3)
