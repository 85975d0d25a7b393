"""The composition root: what the command line does, for those who want it from Python."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protrna_cli import __version__, output, pipeline, rates, weights
from protrna_cli.errors import OutputUnwritable, UsageError, WeightsError
from protrna_cli.estimate import Estimate, estimate
from protrna_cli.inputs import open_sources
from protrna_cli.machine import available_cpus, available_memory
from protrna_cli.model import demo
from protrna_cli.model.checkpoint import read_checkpoint, read_size
from protrna_cli.model.structure import PUBLISHED_SIZE, ModelSize
from protrna_cli.output.rows import Header
from protrna_cli.records import Census, Record, Skipped, read_records, shortened, take_census
from protrna_cli.report import Progress, Summary
from protrna_cli.rules import DEFAULT_RULES, Rules
from protrna_cli.spool import Spool, skipped_path

if TYPE_CHECKING:
    from protrna_cli.model.transformer import ProtRNA

AnyPath = str | PathLike[str]

MEASURABLE_SECONDS = 5.0
"""A run shorter than this says little of the machine's rate."""


@dataclass(frozen=True)
class EmbedOptions:
    """How to embed; the defaults are the command line's.

    Attributes
    ----------
    model
        `protrna` (the published weights), `demo`, or the path of a checkpoint.
    layer
        Layer to take: 0 is the embedding, negatives count from the end.
    per_token
        One vector a residue, not one a record.
    pool
        `mean` or `max` over the residues, or `cls`; nothing per token.
    dtype
        Of what is written: `float32` or `float16`. The model computes in float32.
    format, h5_layout
        `parquet`, `h5` or `npy`, by default told by the suffix; `flat` or `packed`.
    device, threads
        As `load_model` takes them.
    batch_tokens
        Budget of a batch in tokens, padding included.
    overwrite
        Replace an output that exists.
    rules
        What becomes of invalid letters, gaps and long records.
    """

    model: str = weights.PUBLISHED
    layer: int = -1
    per_token: bool = False
    pool: str = "mean"
    dtype: str = "float32"
    format: str | None = None
    h5_layout: str = "flat"
    device: str = "auto"
    threads: int | None = None
    batch_tokens: int = 2048
    overwrite: bool = False
    rules: Rules = DEFAULT_RULES


def load_model(
    name_or_path: AnyPath = weights.PUBLISHED, *, device: str = "auto", threads: int | None = None
) -> ProtRNA:
    """Load a model.

    Parameters
    ----------
    name_or_path
        `protrna` (the published weights), `demo` (synthetic weights, for trying), or a checkpoint's path.
    device
        `auto`, `cpu`, `gpu` or `gpu:N`; settled by the first call in a process.
    threads
        CPU threads; by default what the process may use.

    Raises
    ------
    WeightsError
        The checkpoint is not at hand or not usable.
    UsageError
        There is no such device.
    """
    return _load(weights.locate(str(name_or_path)), device, threads)


def load_pretrained_model(name: str = "ProtRNA_pretrained", path: AnyPath = "./weights") -> ProtRNA:
    """Load `path/name.h5`, as the published code does."""
    return load_model(Path(path) / f"{name}.h5")


def embed_fasta(
    inputs: AnyPath | Sequence[AnyPath],
    output_path: AnyPath,
    options: EmbedOptions | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Embed FASTA files into one output, as `protrna embed` does.

    Parameters
    ----------
    inputs
        One path or several, or `-` for standard input; their records follow one another.
    output_path
        The file to make.
    progress
        Told how far the run is.

    Raises
    ------
    ProtrnaError
        Whatever the user can mend; see `protrna_cli.errors`.
    """
    options = options or EmbedOptions()
    target = Path(output_path)
    format = options.format or output.format_of(target)
    _refuse_existing([*output.files_of(target, format), skipped_path(target)], options)
    checkpoint = weights.locate(options.model)
    with open_sources(_listed(inputs)) as sources:
        census = take_census(sources, options.rules, unique_ids=_needs_ids(target, options))
        with ThreadPoolExecutor(1) as background:
            digest = background.submit(weights.sha256, checkpoint) if checkpoint else None
            model = _load(checkpoint, options.device, options.threads)
            header = _header(options, model, census, digest.result() if digest else None)
        _check_memory(options.rules, model, census)
        with Spool(target, header) as spool:
            records = read_records(sources, options.rules, census)
            seconds = _run(records, model, spool, options, header, census, progress or Progress())
            spool.finish(format, options.h5_layout)
    return Summary(
        output=str(target),
        n_records=census.n_records,
        n_residues=census.n_embedded,
        n_unknown=census.n_unknown,
        n_long=census.n_long,
        long=options.rules.long,
        max_length=options.rules.max_length,
        n_skipped=census.n_skipped,
        skipped_list=str(skipped_path(target)),
        n_repeats=census.n_repeats,
        seconds=seconds,
    )


def _run(
    records: Iterator[Record | Skipped],
    model: ProtRNA,
    spool: Spool,
    options: EmbedOptions,
    header: Header,
    census: Census,
    progress: Progress,
) -> float:
    """Embed the records; returns the seconds it took, and keeps the rate for `--dry-run`."""
    progress.start(census.n_records, census.n_embedded)
    started = time.perf_counter()
    try:
        tokens = pipeline.embed(
            records,
            model,
            spool,
            progress,
            options.rules,
            repr_layers=header.layers,
            pooling="none" if options.per_token else options.pool,
            max_tokens=options.batch_tokens,
        )
    finally:
        progress.close()
    seconds = time.perf_counter() - started
    if seconds > MEASURABLE_SECONDS:
        rates.remember(weights.folder() / "rates.json", _rate_key(model.size, options), tokens / seconds)
    return seconds


def _check_memory(rules: Rules, model: ProtRNA, census: Census) -> None:
    """Refuse a record that cannot run in one piece, before anything is computed."""
    if rules.long != "whole":
        return
    needed = model.attention_bytes(census.longest + 2)
    free = available_memory()
    if free is not None and needed > free:
        raise UsageError(
            f"record {shortened(census.longest_id)} of {census.longest:,} residues needs "
            f"{needed / 2**30:,.1f} GiB of memory in one piece, and {free / 2**30:,.1f} GiB are free; "
            "use --long window"
        )


def estimate_fasta(
    inputs: AnyPath | Sequence[AnyPath], output_path: AnyPath, options: EmbedOptions | None = None
) -> Estimate:
    """Say what `embed_fasta` would do and take; nothing is computed or written.

    Raises
    ------
    ProtrnaError
        Whatever is wrong with the input or the options.
    """
    options = options or EmbedOptions()
    size = _size(options.model)
    with open_sources(_listed(inputs)) as sources:
        census = take_census(sources, options.rules, unique_ids=_needs_ids(Path(output_path), options))
        vector = size.width * (2 if options.dtype == "float16" else 4)
        return estimate(
            read_records(sources, options.rules, census),
            census,
            options.rules,
            size,
            options.batch_tokens,
            bytes_a_row=(0, vector) if options.per_token else (vector, 0),
            rate=rates.recall(weights.folder() / "rates.json", _rate_key(size, options)),
        )


def _listed(inputs: AnyPath | Sequence[AnyPath]) -> Sequence[AnyPath]:
    return [inputs] if isinstance(inputs, (str, PathLike)) else inputs


def _needs_ids(target: Path, options: EmbedOptions) -> bool:
    """Whether the output names its datasets by the ids of the records."""
    return (options.format or output.format_of(target), options.h5_layout) == ("h5", "flat")


def _size(model: str) -> ModelSize:
    """Size of a model that need not be at hand: without the published weights it is known all the same."""
    try:
        checkpoint = weights.locate(model)
    except WeightsError:
        if model == weights.PUBLISHED:
            return PUBLISHED_SIZE
        raise
    return read_size(checkpoint) if checkpoint else demo.SIZE


def _rate_key(size: ModelSize, options: EmbedOptions) -> str:
    return f"{size.layers}x{size.width} float32 {options.device} {options.threads or available_cpus()}"


def _refuse_existing(files: list[Path], options: EmbedOptions) -> None:
    for file in files:
        if file.exists() and not options.overwrite:
            raise OutputUnwritable(f"{file}: exists; use --overwrite to replace it, or choose another -o")


def _load(checkpoint: Path | None, device: str, threads: int | None) -> ProtRNA:
    from protrna_cli.model import runtime
    from protrna_cli.model.transformer import ProtRNA

    runtime.configure(device, threads)
    return ProtRNA(
        *(read_checkpoint(checkpoint, runtime.place) if checkpoint else demo.demo_weights(runtime.place))
    )


def _header(options: EmbedOptions, model: ProtRNA, census: Census, weights_sha256: str | None) -> Header:
    layer = model.layer_index(options.layer)
    provenance: dict[str, Any] = {
        "version": __version__,
        "model": {
            "name": options.model,
            "weights_sha256": weights_sha256,
            "layers": model.size.layers,
            "width": model.size.width,
            "heads": model.size.heads,
        },
        "layers": [layer],
        "pooling": None if options.per_token else options.pool,
        "precision": "float32",
        "dtype": options.dtype,
        "rules": {**asdict(options.rules), "overlap": options.rules.shared},
        "inputs": census.inputs,
        "records": census.n_records + census.n_skipped,
        "skipped": census.n_skipped,
    }
    if weights_sha256 is None:
        provenance["notice"] = weights.DEMO_NOTICE
    return Header(
        per_token=options.per_token,
        layers=(layer,),
        width=model.size.width,
        dtype=options.dtype,
        n_rows=census.n_records,
        n_residues=census.n_embedded,
        provenance=provenance,
    )
