"""The composition root: what the command line does, for those who want it from Python."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protrna_cli import __version__, output, pipeline, weights
from protrna_cli.errors import OutputUnwritable
from protrna_cli.output.rows import Header
from protrna_cli.records import Census, read_records, take_census
from protrna_cli.report import Progress, Summary
from protrna_cli.spool import Spool
from protrna_cli.weights import trust
from protrna_cli.weights.fetching import obtain
from protrna_cli.weights.watch import Watcher

if TYPE_CHECKING:
    from protrna_cli.model.transformer import ProtRNA

AnyPath = str | PathLike[str]


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
    weights_dir
        Where the published weights are kept; by default `PROTRNA_HOME` or the user's cache folder.
    offline
        Do not fetch the published weights if they are not at hand; `PROTRNA_OFFLINE=1` says the same.
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
    weights_dir: str | None = None
    offline: bool = False


def load_model(
    name_or_path: AnyPath = weights.PUBLISHED, *, device: str = "auto", threads: int | None = None
) -> ProtRNA:
    """Load a model.

    Parameters
    ----------
    name_or_path
        `protrna` (the published weights, fetched if they are not at hand), `demo` (synthetic weights, for
        trying), or a checkpoint's path.
    device
        `auto`, `cpu`, `gpu` or `gpu:N`; settled by the first call in a process.
    threads
        CPU threads; by default what the process may use.

    Raises
    ------
    WeightsError
        The checkpoint is not at hand or not usable.
    OutputUnwritable, WriteFailed
        It was to be fetched, and its folder cannot be written, or the disk is full.
    UsageError
        There is no such device.
    """
    checkpoint = weights.locate(str(name_or_path))
    obtain(checkpoint)
    return _load_trusted(checkpoint, device, threads)[0]


def load_pretrained_model(name: str = "ProtRNA_pretrained", path: AnyPath = "./weights") -> ProtRNA:
    """Load `path/name.h5`, as the published code does."""
    return load_model(Path(path) / f"{name}.h5")


def embed_fasta(
    inputs: AnyPath | Sequence[AnyPath],
    output_path: AnyPath,
    options: EmbedOptions | None = None,
    progress: Progress | None = None,
    watcher: Watcher | None = None,
) -> Summary:
    """Embed FASTA files into one output, as `protrna embed` does.

    Parameters
    ----------
    inputs
        One path or several; their records follow one another.
    output_path
        The file to make.
    progress
        Told how far the run is.
    watcher
        Told how the weights are fetched, if they have to be.

    Raises
    ------
    ProtrnaError
        Whatever the user can mend; see `protrna_cli.errors`.
    """
    options = options or EmbedOptions()
    paths = [Path(p) for p in ([inputs] if isinstance(inputs, (str, PathLike)) else inputs)]
    target = Path(output_path)
    format = options.format or output.format_of(target)
    _refuse_existing(output.files_of(target, format), options)
    checkpoint = weights.locate(options.model, options.weights_dir, offline=options.offline)
    census = take_census(paths)
    obtain(checkpoint, watcher)
    model, digest = _load_trusted(checkpoint, options.device, options.threads)
    header = _header(options, model, census, digest)
    progress = progress or Progress()
    with Spool(target, header) as spool:
        progress.start(census.n_records, census.n_residues)
        started = time.perf_counter()
        try:
            pipeline.embed(
                read_records(paths, census),
                model,
                spool,
                progress,
                repr_layers=header.layers,
                pooling="none" if options.per_token else options.pool,
                max_tokens=options.batch_tokens,
            )
        finally:
            progress.close()
        seconds = time.perf_counter() - started
        spool.finish(format, options.h5_layout)
    return Summary(str(target), census.n_records, census.n_residues, census.n_unknown, census.n_long, seconds)


def _refuse_existing(files: list[Path], options: EmbedOptions) -> None:
    for file in files:
        if file.exists() and not options.overwrite:
            raise OutputUnwritable(f"{file}: exists; use --overwrite to replace it, or choose another -o")


def _load_trusted(checkpoint: Path | None, device: str, threads: int | None) -> tuple[ProtRNA, str | None]:
    """Load a model, and hash its checkpoint meanwhile: it must be the one that was verified, if one was."""
    with ThreadPoolExecutor(1) as background:
        digest = background.submit(trust.sha256, checkpoint) if checkpoint else None
        model = _load(checkpoint, device, threads)
        return model, digest.result() if digest else None


def _load(checkpoint: Path | None, device: str, threads: int | None) -> ProtRNA:
    from protrna_cli.model import runtime
    from protrna_cli.model.checkpoint import read_checkpoint
    from protrna_cli.model.demo import demo_weights
    from protrna_cli.model.transformer import ProtRNA

    runtime.configure(device, threads)
    return ProtRNA(
        *(read_checkpoint(checkpoint, runtime.place) if checkpoint else demo_weights(runtime.place))
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
        "long": "whole",
        "inputs": census.inputs,
    }
    if weights_sha256 is None:
        provenance["notice"] = weights.DEMO_NOTICE
    return Header(
        per_token=options.per_token,
        layers=(layer,),
        width=model.size.width,
        dtype=options.dtype,
        n_rows=census.n_records,
        n_residues=census.n_residues,
        provenance=provenance,
    )
