"""The composition root: what the command line does, for those who want it from Python."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from protrna_cli import output, pipeline, rates, weights
from protrna_cli.errors import Stopped, UsageError, WeightsError
from protrna_cli.estimate import Estimate, estimate
from protrna_cli.inputs import Source, open_sources
from protrna_cli.locks import locked
from protrna_cli.machine import available_cpus, available_memory
from protrna_cli.model import demo
from protrna_cli.model.checkpoint import read_checkpoint, read_size
from protrna_cli.model.structure import PUBLISHED_SIZE, ModelSize
from protrna_cli.output.rows import Header
from protrna_cli.pipeline import Job, Product
from protrna_cli.provenance import make_header, run_key
from protrna_cli.records import Census, Record, Skipped, read_slice, shortened, take_census
from protrna_cli.report import Progress, Summary, amount, counted
from protrna_cli.rules import DEFAULT_RULES, Rules
from protrna_cli.shard import WHOLE, Shard
from protrna_cli.spool import Spool, shard_path, skipped_path
from protrna_cli.stopping import Stop
from protrna_cli.targets import DTYPE_BYTES, Target, check_space, is_whole, refuse_existing
from protrna_cli.weights import trust
from protrna_cli.weights.fetching import obtain
from protrna_cli.weights.watch import Watcher

if TYPE_CHECKING:
    from protrna_cli.model.transformer import ProtRNA

AnyPath = str | PathLike[str]

_OF_THE_HEADER = ("pool", "precision", "dtype", "batch_tokens", "rules", "shard")
"""Options that decide the values, and so stand in the header."""

MEASURABLE_SECONDS = 5.0
"""A run shorter than this says little of the machine's rate."""


@dataclass(frozen=True)
class EmbedOptions:
    """How to embed; the defaults are the command line's.

    Attributes
    ----------
    model
        `protrna` (the published weights), `demo`, or the path of a checkpoint.
    layers
        Layers to take, from one run of the model: 0 is the embedding, negatives count from the end.
    per_token
        One vector a residue, not one a record.
    per_token_output
        A second output, with one vector a residue, from the same run of the model.
    pool
        `mean` or `max` over the residues, or `cls`; nothing per token.
    precision
        Of the model's matmuls: `float32` or `bfloat16`. All else is computed in float32.
    dtype
        Of what is written: `float32` or `float16`.
    format, h5_layout
        `parquet`, `h5` or `npy`, by default told by the suffix; `flat` or `packed`.
    device, threads
        As `load_model` takes them.
    batch_tokens
        Budget of a batch in tokens.
    weights_dir
        Where the published weights are kept; by default `PROTRNA_HOME` or the user's cache folder.
    offline
        Do not fetch the published weights if they are not at hand; `PROTRNA_OFFLINE=1` says the same.
    overwrite
        Replace an output that exists.
    resume
        Go on with a run that did not finish; without one, begin.
    shard
        Embed one slice of the input.
    rules
        What becomes of invalid letters, gaps and long records, and of which residues a row speaks.

    Raises
    ------
    UsageError
        What is asked for cannot be had together.
    """

    model: str = weights.PUBLISHED
    layers: tuple[int, ...] = (-1,)
    per_token: bool = False
    per_token_output: str | None = None
    pool: str = "mean"
    precision: str = "float32"
    dtype: str = "float32"
    format: str | None = None
    h5_layout: str = "flat"
    device: str = "auto"
    threads: int | None = None
    batch_tokens: int = 2048
    weights_dir: str | None = None
    offline: bool = False
    overwrite: bool = False
    resume: bool = False
    shard: Shard = WHOLE
    rules: Rules = DEFAULT_RULES

    def __post_init__(self) -> None:
        for name, given in (
            ("--per-token-output", self.per_token_output),
            ("--skip-unknown", self.rules.skip_unknown),
            ("--regions", self.rules.regions),
        ):
            if given and self.per_token:
                raise UsageError(
                    f"{name} is for pooled rows, and --per-token makes none; "
                    "to have both, give --per-token-output a file instead"
                )
        if self.rules.skip_unknown and self.pool != "mean":
            raise UsageError(f"--skip-unknown is for --pool mean, not for --pool {self.pool}")
        if self.rules.regions and self.pool == "cls":
            raise UsageError("--regions is for --pool mean and max: cls speaks of a whole record")


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
    with _hashing(checkpoint) as digest:
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
                _recommend(options, progress)
            with Stream(descriptor, headers[target], stop) as stream:
                products = [Product(_pooling(target, options), stream)]
                items = read_slice(sources, options.rules, whole, options.shard, model.size.width)
                seconds = _run(items, model, products, options, part, progress, stop)
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


def embed_slice(
    sources: Sequence[Source],
    whole: Census,
    targets: Sequence[Target],
    checkpoint: Path | None,
    options: EmbedOptions,
    progress: Progress,
    stop: Stop,
    sha256: Callable[[Path], str] = trust.sha256,
    load: Callable[[Path | None, str, str, int | None], ProtRNA] | None = None,
) -> Summary:
    """Embed the shard of an input that was counted into outputs, whose locks the caller holds.

    Parameters
    ----------
    whole
        Census of all the input.
    targets
        Made from one run of the model. With `resume`, those that are whole already are left alone.
    checkpoint
        As `weights.locate` gives it.
    sha256, load
        Hash a checkpoint, and load it (with which precision, onto which device, for how many threads); a
        process that embeds many slices gives functions that remember.

    Raises
    ------
    ProtrnaError
        As `embed_fasta`.
    """
    paths = [target.path for target in targets]
    with stop.abandoning():
        headers, part = plan_slice(sources, whole, targets, checkpoint, options, sha256)
        if options.resume:
            headers = {
                target: header for target, header in headers.items() if not is_whole(target.path, header)
            }
        if not headers:
            return summary_of(paths, part, options, 0.0, part.n_records, already_whole=True)
        check_space(headers, progress)
        model = (load or load_checkpoint)(checkpoint, options.precision, options.device, options.threads)
        _recommend(options, progress)
    with ExitStack() as stack:
        spools = {
            target: stack.enter_context(Spool(target.path, header, run_key(header), options.resume))
            for target, header in headers.items()
        }
        resumed = _rows_done(spools.values())
        products = [Product(_pooling(target, options), spool) for target, spool in spools.items()]
        items = read_slice(sources, options.rules, whole, options.shard, model.size.width)
        try:
            seconds = _run(items, model, products, options, part, progress, stop)
            for target, spool in spools.items():
                spool.finish(target.format, options.h5_layout, stop.check)
        except Stopped as stopped:
            n_rows = counted(next(iter(headers.values())).n_rows, "row")
            safe = f"{_rows_done(spools.values()):,} of {n_rows} or more are safe"
            raise type(stopped)(f"{stopped}; {safe}") from None
    return summary_of(paths, part, options, seconds, resumed)


def _rows_done(spools: Iterable[Spool]) -> int:
    """Rows that are durable in every one of the outputs."""
    return min(spool.position.rows for spool in spools)


def _pooling(target: Target, options: EmbedOptions) -> str:
    return "none" if target.per_token else options.pool


def plan_slice(
    sources: Sequence[Source],
    whole: Census,
    targets: Sequence[Target],
    checkpoint: Path | None,
    options: EmbedOptions,
    sha256: Callable[[Path], str] = trust.sha256,
) -> tuple[dict[Target, Header], Census]:
    """Say what the outputs of a shard will hold; gives their headers, and the census of the shard."""
    with _hashing(checkpoint, sha256) as digest:
        size = read_size(checkpoint)[0] if checkpoint else demo.SIZE
        layers = tuple(dict.fromkeys(map(size.layer_index, options.layers)))
        part = _census_of_shard(sources, whole, options, size)
        _check_memory(options.rules, size, part)
        if not options.resume:
            # TensorFlow loads while the checkpoint is hashed; a finished output that is resumed needs none.
            import protrna_cli.model.runtime  # noqa: F401
        headers = {
            target: make_header(
                model=options.model,
                weights_sha256=digest(),
                size=size,
                layers=layers,
                per_token=target.per_token,
                **{name: getattr(options, name) for name in _OF_THE_HEADER},
                whole=whole,
                part=part,
            )
            for target in targets
        }
    return headers, part


@contextmanager
def _hashing(
    checkpoint: Path | None, sha256: Callable[[Path], str] = trust.sha256
) -> Iterator[Callable[[], str | None]]:
    """Hash a checkpoint meanwhile; gives what waits for its SHA-256, None for the demo model."""
    with ThreadPoolExecutor(1) as background:
        digest = background.submit(sha256, checkpoint) if checkpoint else None
        yield lambda: digest.result() if digest else None


def _census_of_shard(
    sources: Sequence[Source], whole: Census, options: EmbedOptions, size: ModelSize
) -> Census:
    if options.shard.count == 1:
        return whole
    part = Census(inputs=whole.inputs)
    part.count(read_slice(sources, options.rules, whole, options.shard, size.width), options.rules)
    return part


def _run(
    items: Iterator[Record | Skipped],
    model: ProtRNA,
    products: Sequence[Product],
    options: EmbedOptions,
    part: Census,
    progress: Progress,
    stop: Stop,
) -> float:
    """Embed the records; returns the seconds it took, and keeps the rate for `--dry-run`."""
    layers = tuple(dict.fromkeys(map(model.size.layer_index, options.layers)))
    job = Job(options.rules, layers, options.batch_tokens, options.dtype)
    progress.start(part.n_records, part.n_embedded)
    started = time.perf_counter()
    try:
        tokens = pipeline.embed(items, model, products, job, progress, stop)
    finally:
        progress.close()
    seconds = time.perf_counter() - started
    if seconds > MEASURABLE_SECONDS:
        rates.remember(weights.folder() / "rates.json", _rate_key(model.size, options), tokens / seconds)
    return seconds


def summary_of(
    outputs: Sequence[Path],
    part: Census,
    options: EmbedOptions,
    seconds: float,
    n_resumed: int,
    already_whole: bool = False,
) -> Summary:
    """Say what was done for a census' records."""
    return Summary(
        output=" and ".join(map(str, outputs)),
        n_records=part.n_records,
        n_regions=part.n_rows if options.rules.regions else 0,
        n_residues=part.n_embedded,
        n_unknown=part.n_unknown,
        n_long=part.n_long,
        long=options.rules.long,
        max_length=options.rules.max_length,
        n_skipped=part.n_skipped,
        skipped_list=str(skipped_path(outputs[0])),
        n_repeats=part.n_repeats,
        seconds=seconds,
        n_resumed=n_resumed,
        already_whole=already_whole,
    )


def _check_memory(rules: Rules, size: ModelSize, census: Census) -> None:
    """Refuse a record that cannot run in one piece, before anything is computed."""
    if rules.long != "whole":
        return
    needed = size.attention_bytes(census.longest + 2)
    free = available_memory()
    if free is not None and needed > free:
        raise UsageError(
            f"record {shortened(census.longest_id)} of {census.longest:,} residues needs "
            f"{amount(needed)} of memory in one piece, and {amount(free)} are free; "
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
    targets = _targets(Path(output_path), options)
    with open_sources(_listed(inputs)) as sources:
        whole = take_census(sources, options.rules, unique_ids=_need_ids(targets, options))
        vector = size.width * len(options.layers) * DTYPE_BYTES[options.dtype]
        return estimate(
            read_slice(sources, options.rules, whole, options.shard, size.width),
            _census_of_shard(sources, whole, options, size),
            options.rules,
            size,
            options.batch_tokens,
            bytes_a_row=(
                vector * any(not target.per_token for target in targets),
                vector * any(target.per_token for target in targets),
            ),
            rate=rates.recall(weights.folder() / "rates.json", _rate_key(size, options)),
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


def _rate_key(size: ModelSize, options: EmbedOptions) -> str:
    threads = options.threads or available_cpus()
    return f"{size.layers}x{size.width} {options.precision} {options.device} {threads}"


def load_checkpoint(checkpoint: Path | None, precision: str, device: str, threads: int | None) -> ProtRNA:
    """Load the model of a checkpoint that is at hand; None is the demo model."""
    from protrna_cli.model import runtime
    from protrna_cli.model.transformer import ProtRNA

    runtime.configure(device, threads)
    place = runtime.placer(precision)
    return ProtRNA(*(read_checkpoint(checkpoint, place) if checkpoint else demo.demo_weights(place)))


def _recommend(options: EmbedOptions, progress: Progress) -> None:
    """Tell who computes in float32 where bfloat16 is much faster; the demo model is fast anyway."""
    from protrna_cli.model import runtime

    if options.precision == "float32" and options.model != weights.DEMO and runtime.bfloat16_is_fast():
        progress.note("this machine is several times faster with --precision bfloat16, see the README")
