"""The composition root: what the command line does, for those who want it from Python."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from protrna_cli import output, rates, weights
from protrna_cli.census import read_slice, take_census
from protrna_cli.errors import Stopped, UsageError, WeightsError
from protrna_cli.estimate import Estimate, estimate
from protrna_cli.inputs import open_sources
from protrna_cli.locks import locked
from protrna_cli.model import demo
from protrna_cli.model.checkpoint import read_size
from protrna_cli.model.structure import PUBLISHED_SIZE, ModelSize
from protrna_cli.options import EmbedOptions
from protrna_cli.pipeline import Product
from protrna_cli.report import Progress, Summary
from protrna_cli.slices import (
    census_of_shard,
    embed_slice,
    hashing,
    load_checkpoint,
    plan_slice,
    pooling_of,
    rate_key,
    recommend,
    run_slice,
    summary_of,
)
from protrna_cli.spool import shard_path
from protrna_cli.stopping import Stop
from protrna_cli.targets import DTYPE_BYTES, Target, refuse_existing
from protrna_cli.weights.fetching import obtain
from protrna_cli.weights.watch import Watcher

if TYPE_CHECKING:
    from protrna_cli.model.transformer import ProtRNA

AnyPath = str | PathLike[str]


def load_model(
    name_or_path: AnyPath = weights.PUBLISHED,
    *,
    precision: str = "float32",
    device: str = "auto",
    threads: int | None = None,
) -> ProtRNA:
    """Load a model.

    Parameters
    ----------
    name_or_path
        `protrna` (the published weights, fetched if they are not at hand), `demo` (synthetic weights, for
        trying), or a checkpoint's path.
    precision
        Of the matmuls: `float32` or `bfloat16`, which halves the memory of the weights.
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
    with hashing(checkpoint) as digest:
        model = load_checkpoint(checkpoint, precision, device, threads)
        digest()  # it must be the checkpoint that was verified, if one was
    return model


def load_pretrained_model(name: str = "ProtRNA_pretrained", path: AnyPath = "./weights") -> ProtRNA:
    """Load `path/name.h5`, as the published code does."""
    return load_model(Path(path) / f"{name}.h5")


def embed_fasta(
    inputs: AnyPath | Sequence[AnyPath],
    output_path: AnyPath,
    options: EmbedOptions | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
    watcher: Watcher | None = None,
) -> Summary:
    """Embed FASTA files into one output, as `protrna embed` does.

    Parameters
    ----------
    inputs
        One path or several, or `-` for standard input; their records follow one another.
    output_path
        The file to make; a shard's name has the shard before its suffix, `out.3-of-7.parquet`.
    progress
        Told how far the run is.
    stop
        Asked whether to stop; see `protrna_cli.stopping`.
    watcher
        Told how the weights are fetched, if they have to be.

    Raises
    ------
    ProtrnaError
        Whatever the user can mend; see `protrna_cli.errors`.
    """
    options = options or EmbedOptions()
    progress, stop = progress or Progress(), stop or Stop()
    targets = _targets(Path(output_path), options)
    checkpoint = weights.locate(options.model, options.weights_dir, offline=options.offline)
    with ExitStack() as stack:
        for target in targets:
            stack.enter_context(locked(target.path))
        sources = stack.enter_context(open_sources(_listed(inputs)))
        for target in targets:
            refuse_existing(target, options.resume, options.overwrite)
        with stop.abandoning():
            whole = take_census(sources, options.rules, unique_ids=_need_ids(targets, options))
            obtain(checkpoint, watcher)
        return embed_slice(sources, whole, targets, checkpoint, options, progress, stop)


def _targets(path: Path, options: EmbedOptions) -> list[Target]:
    """Every file that a run makes.

    Raises
    ------
    UsageError
        A suffix tells no format, or two files have one name.
    """
    format = options.format or output.format_of(path)
    targets = [Target(shard_path(path, options.shard), format, options.per_token)]
    if options.per_token_output:
        beside = Path(options.per_token_output)
        if beside.absolute() == path.absolute():
            raise UsageError(f"{path}: named by -o and by --per-token-output; give each a file of its own")
        targets.append(Target(shard_path(beside, options.shard), output.format_of(beside), per_token=True))
    return targets


def stream_fasta(
    inputs: AnyPath | Sequence[AnyPath],
    descriptor: int,
    options: EmbedOptions | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
    watcher: Watcher | None = None,
) -> Summary:
    """Embed FASTA files into a pipe as Parquet, as `protrna embed -o -` does; see `protrna_cli.streaming`.

    Parameters
    ----------
    descriptor
        Where to write: the number of an open file. It stays open.
    inputs, progress, stop, watcher
        As `embed_fasta` takes them.

    Raises
    ------
    UsageError
        The options speak of a file: another format, `resume`, `overwrite`, or rules that skip records, which
        are listed beside a file.
    ReaderGone
        Whoever reads has closed the pipe.
    ProtrnaError
        Whatever the user can mend; see `protrna_cli.errors`.
    """
    options = options or EmbedOptions()
    progress, stop = progress or Progress(), stop or Stop()
    _refuse_options_of_files(options)
    from protrna_cli.streaming import Stream  # it brings pyarrow, which other formats do without

    checkpoint = weights.locate(options.model, options.weights_dir, offline=options.offline)
    try:
        with open_sources(_listed(inputs)) as sources:
            with stop.abandoning():
                whole = take_census(sources, options.rules)
                obtain(checkpoint, watcher)
                target = Target(Path("<stdout>"), "parquet", options.per_token)
                headers, part = plan_slice(sources, whole, [target], checkpoint, options)
                model = load_checkpoint(checkpoint, options.precision, options.device, options.threads)
                recommend(options, progress)
            with Stream(descriptor, headers[target], stop) as stream:
                products = [Product(pooling_of(target, options), stream)]
                items = read_slice(sources, options.rules, whole, options.shard, model.size.width)
                seconds = run_slice(items, model, products, options, part, progress, stop)
    except Stopped as stopped:
        stopped.resumable = False
        raise
    return summary_of([target.path], part, options, seconds, 0)


def _refuse_options_of_files(options: EmbedOptions) -> None:
    """Make sure that the options ask for nothing that a pipe cannot have."""
    if options.format not in (None, "parquet"):
        raise UsageError(f"-o - is Parquet alone, not {options.format}; give -o a file")
    if options.resume or options.overwrite:
        raise UsageError("--resume and --overwrite speak of a file, and -o - is none; give -o a file")
    if options.per_token_output:
        raise UsageError("--per-token-output goes with a file, and -o - is none; give -o a file")
    if "skip" in (options.rules.on_invalid, options.rules.long):
        raise UsageError("skipped records are listed beside OUT, and -o - is no file; give -o a file")
    if options.rules.regions:
        raise UsageError(
            "records without a region are listed beside OUT, and -o - is no file; give -o a file"
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
    targets = _targets(Path(output_path), options)
    with open_sources(_listed(inputs)) as sources:
        whole = take_census(sources, options.rules, unique_ids=_need_ids(targets, options))
        vector = size.width * len(options.layers) * DTYPE_BYTES[options.dtype]
        return estimate(
            read_slice(sources, options.rules, whole, options.shard, size.width),
            census_of_shard(sources, whole, options, size),
            options.rules,
            size,
            options.batch_tokens,
            bytes_a_row=(
                vector * any(not target.per_token for target in targets),
                vector * any(target.per_token for target in targets),
            ),
            rate=rates.recall(weights.folder() / "rates.json", rate_key(size, options)),
        )


def _listed(inputs: AnyPath | Sequence[AnyPath]) -> Sequence[AnyPath]:
    return [inputs] if isinstance(inputs, (str, PathLike)) else inputs


def _need_ids(targets: Sequence[Target], options: EmbedOptions) -> bool:
    """Whether an output names its datasets by the ids of its rows, which then must not repeat.

    A record with regions has an id of its own anyway.
    """
    flat = [target for target in targets if (target.format, options.h5_layout) == ("h5", "flat")]
    return any(not (target.per_token and options.rules.regions) for target in flat)


def _size(model: str) -> ModelSize:
    """Size of a model that need not be at hand: without the published weights it is known all the same."""
    try:
        checkpoint = weights.locate(model)
    except WeightsError:
        if model != weights.PUBLISHED:
            raise
        return PUBLISHED_SIZE
    if checkpoint is None:
        return demo.SIZE
    return read_size(checkpoint)[0] if weights.is_there(checkpoint) else PUBLISHED_SIZE
