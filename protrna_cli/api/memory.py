"""Embed sequences in memory: for notebooks and programs.

Sequences are as programs hold them: text, Biopython's objects, mappings and pandas Series. The keywords are
those of `EmbedOptions` and `Rules`. Nothing is set up for the whole process: no signal handlers, no logging,
no settings of TensorFlow.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from protrna_cli.api.keywords import AnyKeywords, any_bar, options_of, python_words
from protrna_cli.api.models import load_named, refuse_settings
from protrna_cli.errors import UsageError
from protrna_cli.fasta.records import Record, Skipped, read_sequences
from protrna_cli.output.embeddings import Embedding
from protrna_cli.output.rows import Values
from protrna_cli.plan.pieces import CHUNK_RECORDS, CHUNK_RESIDUES, Row, embedded_length, into_chunks
from protrna_cli.plan.rules import (
    AUTO,
    TRAINED_LENGTH,
    Gaps,
    Long,
    OnInvalid,
    Pool,
    instance,
    path_text,
    switch,
)
from protrna_cli.run.auto import batch_tokens_of
from protrna_cli.run.loop import Loop
from protrna_cli.run.options import Dtype, EmbedOptions, Precision
from protrna_cli.run.outputs import Position
from protrna_cli.run.report import NOTHING, Amount, Progress, Stop
from protrna_cli.run.run import check_memory, saved
from protrna_cli.run.workers import InProcess
from protrna_cli.text import counted, shortened
from protrna_cli.weights.checkpoint import PUBLISHED

if TYPE_CHECKING:
    from Bio.Seq import MutableSeq, Seq
    from Bio.SeqRecord import SeqRecord
    from typing_extensions import Unpack

    from protrna_cli.api.keywords import ForArray, ForArrays, ForList, ForLists, OneLayer, SeveralLayers
    from protrna_cli.model.transformer import ProtRNA
    from protrna_cli.plan.rules import AnyPath


class HasItems(Protocol):
    """A mapping or a pandas Series from ids to sequences."""

    def items(self) -> Iterable[tuple[Any, Any]]:
        """Return pairs of an id and its sequence."""


if TYPE_CHECKING:
    AnySequence: TypeAlias = str | Seq | MutableSeq | SeqRecord
    AnySequences: TypeAlias = Iterable[AnySequence] | Iterable[tuple[str, AnySequence]] | HasItems
    Model: TypeAlias = AnyPath | ProtRNA

_TAKES = "give str, Bio.Seq.Seq or Bio.SeqRecord.SeqRecord"


def named_sequences(sequences: AnySequences) -> Iterator[tuple[str, str, str]]:
    """Yield id, description and letters of each sequence; without an id, it gets its number, from 1."""
    from Bio.Seq import MutableSeq, Seq, UndefinedSequenceError

    if isinstance(sequences, (str, bytes, Seq, MutableSeq)) or hasattr(sequences, "seq"):
        raise UsageError("embed takes many sequences, not one; for one, give a list: [sequence]")
    has_items = getattr(sequences, "items", None)
    items: Any = has_items() if has_items else sequences
    if not isinstance(items, Iterable):
        raise UsageError(f"embed takes an iterable of sequences, not {type(sequences).__name__}; {_TAKES}")
    for number, item in enumerate(map(_plain, items), start=1):
        id, sequence = (str(item[0]), item[1]) if isinstance(item, tuple) and len(item) == 2 else ("", item)
        description = ""
        if hasattr(sequence, "seq"):
            id = id or _given(sequence.id)
            description = _given(sequence.description).removeprefix(_given(sequence.id)).strip()
            sequence = sequence.seq
        id = id or str(number)
        where = f"sequences: record {number} (id {shortened(id)})"
        sequence = _plain(sequence)
        if not isinstance(sequence, (str, Seq, MutableSeq)):
            raise UsageError(f"{where} is {sequence!r} ({type(sequence).__name__}), not a sequence; {_TAKES}")
        try:
            letters = str(sequence)
        except UndefinedSequenceError:
            raise UsageError(f"{where} has no letters, only a length; {_TAKES}") from None
        yield id, description, letters


def _plain(item: Any) -> Any:
    """The Python object of an Arrow scalar, as the items of a pyarrow array are; anything else as it is."""
    return item.as_py() if hasattr(item, "as_py") else item


def _given(text: str | None) -> str:
    """An id or a description of a SeqRecord; empty for Biopython's `<unknown id>` and the like."""
    return "" if not text or text.startswith("<unknown ") else text


class _Kept:
    """Keeps one chunk, its rows in the order of the records: an output of `Loop`."""

    def __init__(self, options: EmbedOptions) -> None:
        self.per_token = options.per_token
        self.pooling: str | None = options.pool
        self.position = Position()
        self._filled: list[dict[int, Values]] = [{} for _ in options.layer_numbers]

    def add(self, rows: list[Row], skipped: Sequence[Skipped]) -> None:
        """Keep the rows."""
        self.rows, self.skipped = rows, list(skipped)

    def fill(self, layer: int, start: int, vectors: Values) -> None:
        """Keep the vectors of a row."""
        self._filled[layer][start] = vectors

    def read(self, layer: int, start: int, count: int) -> Values:
        """Refuse: earlier chunks are not kept."""
        raise NotImplementedError

    def commit(self, position: Position) -> None:
        """Remember what ran; there is no file to write."""
        self.position = position

    def vectors(self) -> list[list[Values]]:
        """Return for each layer the vectors of each row: (1, D), or (L, D) per token."""
        return [[rows[start] for start in sorted(rows)] for rows in self._filled]


Floats = npt.NDArray[np.float32]

BATCHES = 16
"""Batches that a chunk of a stream fills, once it has grown."""

HALVINGS = 4
"""How many times the first chunk is halved: it fills one batch."""


class _How(NamedTuple):
    """How to embed: the keywords, once they are checked."""

    options: EmbedOptions
    precision: str | None
    normalize: bool
    progress: bool

    def ready(self, model: Model) -> _Ready:
        """Load the model, unless it is loaded, and resolve the layers for it."""
        options = self.options
        if isinstance(model, (str, os.PathLike)):
            return _Ready(load_named(replace(options, model=path_text("--model", model))), self)
        from protrna_cli.model.transformer import ProtRNA  # imports TensorFlow

        instance("model", model, ProtRNA, "protrna, demo, the path of a checkpoint or a loaded model")
        refuse_settings(model, self.precision, options.device, options.threads)
        return _Ready(model, self)


def _how(given: dict[str, Any]) -> _How:
    """Check the keywords among the arguments of `embed` or `embed_iter`, whatever the model."""
    how = {name: given[name] for name in AnyKeywords.__annotations__}
    precision, normalize, progress = how.pop("precision"), how.pop("normalize"), how.pop("progress")
    switch("normalize", normalize)
    switch("progress", progress)
    options = options_of(precision="float32" if precision is None else precision, **how)
    return _How(options, precision, normalize, progress)


class _Ready:
    """A loaded model, and what to compute with it."""

    def __init__(self, model: ProtRNA, how: _How) -> None:
        self.model = model
        layers = how.options.layers
        self._layers = model.size.layer_indices(layers) if isinstance(layers, str) else layers
        self._progress, self._normalize, self.dtype = how.progress, how.normalize, how.options.dtype
        options = replace(how.options, layers=model.size.layer_indices(self._layers))
        if options.batch_tokens == AUTO:
            options = replace(options, batch_tokens=batch_tokens_of(model))
        if how.normalize:  # before numbers are narrowed
            options = replace(options, dtype="float32")
        self.options = options

    def chunks(self, chunks: Iterable[list[Record | Skipped]], total: Amount) -> Iterator[_Kept]:
        """Embed chunk by chunk, with a progress bar if it is wanted.

        With the chunks of `into_chunks`, the numbers are those of a file.
        """
        shown = any_bar() if self._progress else Progress()
        shown.start(total)
        try:
            for chunk in chunks:
                if self.options.rules.long == "whole":
                    for item in chunk:
                        check_memory(item.length, item.id, self.model.size)
                kept = _Kept(self.options)
                with InProcess(self.model) as embedder:
                    Loop(embedder, [kept], self.options).run(chunk, shown, Stop())
                # The others did not run, because one that did has the same sequence.
                whole = Amount(len(kept.rows), sum(row.n_embedded for row in kept.rows))
                shown.resume(whole - saved([kept]))
                yield kept
        finally:
            shown.close()

    def vectors(self, kept: _Kept) -> list[list[Values]]:
        """Return the vectors of a chunk as `_Kept.vectors` does, each divided by its length if wanted."""
        found = kept.vectors()
        return [list(map(self._normalized, of_layer)) for of_layer in found] if self._normalize else found

    def _normalized(self, vectors: Values) -> Values:
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        return np.divide(vectors, np.where(lengths, lengths, 1)).astype(self.dtype)

    def by_layer(self, found: Sequence[Any]) -> Any:
        """Give what was found for the layer, or for several layers a dict by layer as it was given."""
        if len(self._layers) == 1:
            return found[0]
        columns = {layer: self.model.size.layer_index(layer) for layer in self._layers}
        return {layer: found[self.options.layer_numbers.index(index)] for layer, index in columns.items()}


@overload
def embed(
    sequences: AnySequences, model: Model = ..., *, return_ids: Literal[False] = ..., **how: Unpack[ForArray]
) -> Floats: ...


@overload
def embed(
    sequences: AnySequences, model: Model = ..., *, return_ids: Literal[False] = ..., **how: Unpack[ForList]
) -> list[Floats]: ...


@overload
def embed(
    sequences: AnySequences, model: Model = ..., *, return_ids: Literal[False] = ..., **how: Unpack[ForArrays]
) -> dict[int, Floats]: ...


@overload
def embed(
    sequences: AnySequences, model: Model = ..., *, return_ids: Literal[False] = ..., **how: Unpack[ForLists]
) -> dict[int, list[Floats]]: ...


@overload
def embed(
    sequences: AnySequences, model: Model = ..., *, return_ids: Literal[True], **how: Unpack[ForArray]
) -> tuple[Floats, list[str]]: ...


@overload
def embed(
    sequences: AnySequences, model: Model = ..., *, return_ids: Literal[True], **how: Unpack[ForList]
) -> tuple[list[Floats], list[str]]: ...


@overload
def embed(
    sequences: AnySequences, model: Model = ..., *, return_ids: bool = ..., **how: Unpack[AnyKeywords]
) -> Any: ...


def embed(
    sequences: AnySequences,
    model: AnyPath | ProtRNA = PUBLISHED,
    *,
    layers: int | Sequence[int] | Literal["all"] = -1,
    per_token: bool = False,
    pool: Pool = "mean",
    precision: Precision | None = None,
    dtype: Dtype = "float32",
    device: str = AUTO,
    threads: int | None = None,
    long: Long = "window",
    max_length: int = TRAINED_LENGTH,
    overlap: int | None = None,
    on_invalid: OnInvalid = "error",
    gaps: Gaps = "error",
    skip_unknown: bool = False,
    normalize: bool = False,
    return_ids: bool = False,
    batch_tokens: int | str = AUTO,
    progress: bool = False,
) -> Any:
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
        Layer, or several, or `all`: 0 is the embedding, negatives count from the end.
    per_token
        One vector per residue instead of one per sequence.
    pool
        `mean` or `max` over the residues, or `cls`; not for `per_token`.
    precision
        Precision of matrix multiplication, `float32` or `bfloat16`; by default that of `model`, or `float32`.
    dtype
        Number type of the result: `float32` or `float16`.
    device, threads
        As in `load_model`, for a model that is loaded here.
    long, max_length, overlap
        What to do with a sequence of more than `max_length` residues: `window` covers it with windows that
        share at least `overlap` residues (by default a quarter of `max_length`), `truncate`, `error`, `skip`
        or `whole`.
    on_invalid
        What to do with a letter that is neither residue nor gap: `error`, read it as `unknown`, or `skip` the
        sequence. A warning counts the sequences that are skipped and names the first; they have no row.
    gaps
        `error`, `remove` them, or read them as `unknown` residues.
    skip_unknown
        Leave unknown residues out of means.
    normalize
        Divide each vector by its length, so that the dot product of two is their cosine similarity.
    return_ids
        Return the ids of the rows too: those of `sequences`, or numbers from 1, without those skipped.
    batch_tokens
        Token budget of a batch, or `auto`: by CPU threads, or by the free memory of the GPU.
    progress
        Show a progress bar, in a terminal or a notebook.

    Returns
    -------
    array, list or dict
        (N, D) in `dtype`; with `per_token` a list of N arrays (L, D). For several layers a dict with such a
        value for each layer, by its number as it was given. With `return_ids` a pair of this and a list of N
        ids.

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
    given = locals()  # the arguments by name
    switch("return_ids", return_ids)
    with python_words(embed):
        how = _how(given)
        vectors, ids = _embed(sequences, model, how)
    return (vectors, ids) if return_ids else vectors


def _embed(sequences: AnySequences, model: Model, how: _How) -> tuple[Any, list[str]]:
    rules, per_token = how.options.rules, how.options.per_token
    items = list(read_sequences(named_sequences(sequences), rules))
    records = [item for item in items if isinstance(item, Record)]
    if len(records) < len(items):
        _warn_of_skipped([item for item in items if isinstance(item, Skipped)], len(items), frames=4)
    total = Amount(len(records), sum(embedded_length(record.length, rules) for record in records))
    ready = how.ready(model)
    found: list[Any] = [[] for _ in ready.options.layer_numbers]
    if not per_token:
        found = [np.empty((len(records), ready.model.size.width), ready.dtype) for _ in found]
    done = 0
    for chunk in ready.chunks(into_chunks(items), total):
        for of_layer, vectors in zip(found, ready.vectors(chunk), strict=True):
            if per_token:
                of_layer.extend(vectors)
            elif vectors:
                of_layer[done : done + len(vectors)] = np.concatenate(vectors)
        done += len(chunk.rows)
    return ready.by_layer(found), [record.id for record in records]


@overload
def embed_iter(
    records: AnySequences,
    model: Model = ...,
    *,
    per_token: bool = ...,
    chunk: int | None = ...,
    **how: Unpack[OneLayer],
) -> Iterator[Embedding[Floats]]: ...


@overload
def embed_iter(
    records: AnySequences,
    model: Model = ...,
    *,
    per_token: bool = ...,
    chunk: int | None = ...,
    **how: Unpack[SeveralLayers],
) -> Iterator[Embedding[dict[int, Floats]]]: ...


@overload
def embed_iter(
    records: AnySequences, model: Model = ..., *, chunk: int | None = ..., **how: Unpack[AnyKeywords]
) -> Iterator[Embedding[Any]]: ...


def embed_iter(
    records: AnySequences,
    model: AnyPath | ProtRNA = PUBLISHED,
    *,
    layers: int | Sequence[int] | Literal["all"] = -1,
    per_token: bool = False,
    pool: Pool = "mean",
    precision: Precision | None = None,
    dtype: Dtype = "float32",
    device: str = AUTO,
    threads: int | None = None,
    long: Long = "window",
    max_length: int = TRAINED_LENGTH,
    overlap: int | None = None,
    on_invalid: OnInvalid = "error",
    gaps: Gaps = "error",
    skip_unknown: bool = False,
    normalize: bool = False,
    chunk: int | None = None,
    batch_tokens: int | str = AUTO,
    progress: bool = False,
) -> Iterator[Embedding[Any]]:
    """Embed a stream of sequences, which need not end; yields each with its vectors, in the same order.

    The results of a chunk come when it is computed. The first chunk fills one batch, and each next one twice
    as many, up to 16. Memory does not grow with the stream: at most 4,096 records and 1,048,576 residues are
    held, and of vectors of the published model 20 MiB, or 5 GiB per token.

    Parameters
    ----------
    records
        As `sequences` in `embed`.
    model, layers, per_token, pool, precision, dtype, device, threads, long, max_length, overlap
        As in `embed`.
    on_invalid, gaps, skip_unknown, normalize
        As in `embed`.
    chunk
        Records of a chunk, 1 to 4,096: they are sorted by length together. Fewer come sooner; more waste less
        time on pads and on batches that are not full. What runs in one batch with a sequence changes the last
        bits of its vectors: with `chunk=4096` they are those of `embed` bit for bit, and otherwise within
        1e-5 of them.
    batch_tokens, progress
        As in `embed`.

    Yields
    ------
    Embedding
        Id, description and counts of a record, and its `vectors`: (D,) in `dtype`, or (L, D) per token. For
        several layers a dict with such an array for each.

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
    given = locals()  # the arguments by name
    with python_words(embed_iter):
        if chunk is not None and (type(chunk) is not int or not 1 <= chunk <= CHUNK_RECORDS):
            raise UsageError(f"chunk takes a whole number from 1 to {CHUNK_RECORDS:,}, not {chunk!r}")
        how = _how(given)
        items = read_sequences(named_sequences(records), how.options.rules)
        ready = how.ready(model)
        if chunk is None:
            residues = min(BATCHES * ready.options.budget, CHUNK_RESIDUES)
            return _embed_iter(ready, into_chunks(items, max_residues=residues, halvings=HALVINGS))
        return _embed_iter(ready, into_chunks(items, chunk))


def _embed_iter(ready: _Ready, chunks: Iterator[list[Record | Skipped]]) -> Iterator[Embedding[Any]]:
    with python_words(embed_iter):
        for chunk in ready.chunks(chunks, NOTHING):
            if chunk.skipped:
                _warn_of_skipped(chunk.skipped, len(chunk.rows) + len(chunk.skipped), frames=3)
            found = ready.vectors(chunk)
            for i, row in enumerate(chunk.rows):
                vectors = [rows[i] if ready.options.per_token else rows[i][0] for rows in found]
                yield Embedding.of(row, ready.by_layer(vectors))


def _warn_of_skipped(skipped: list[Skipped], total: int, frames: int) -> None:
    """Warn where the caller is, so many frames up."""
    text = f"{counted(len(skipped), 'sequence')} of {total:,} skipped, without a row; the first: {skipped[0]}"
    warnings.warn(text, stacklevel=frames)
