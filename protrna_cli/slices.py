"""One slice of an input, from what was counted to finished outputs: a whole run, a shard, a task."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from protrna_cli import pipeline, rates, weights
from protrna_cli.census import Census, read_slice
from protrna_cli.errors import Stopped, UsageError
from protrna_cli.inputs import Source
from protrna_cli.machine import available_cpus, available_memory
from protrna_cli.model import demo
from protrna_cli.model.checkpoint import read_checkpoint, read_size
from protrna_cli.model.structure import ModelSize
from protrna_cli.options import EmbedOptions
from protrna_cli.output.rows import Header
from protrna_cli.pipeline import Job, Product
from protrna_cli.provenance import make_header, run_key
from protrna_cli.records import Record, Skipped, shortened
from protrna_cli.report import Progress, Summary, amount, counted
from protrna_cli.rules import Rules
from protrna_cli.spool import Spool, skipped_path
from protrna_cli.stopping import Stop
from protrna_cli.targets import Target, check_space, is_whole
from protrna_cli.weights import trust

if TYPE_CHECKING:
    from protrna_cli.model.transformer import ProtRNA

_OF_THE_HEADER = ("pool", "precision", "dtype", "batch_tokens", "rules", "shard")
"""Options that decide the values, and so stand in the header."""

MEASURABLE_SECONDS = 5.0
"""A run shorter than this says little of the machine's rate."""


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
        recommend(options, progress)
    with ExitStack() as stack:
        spools = {
            target: stack.enter_context(Spool(target.path, header, run_key(header), options.resume))
            for target, header in headers.items()
        }
        resumed = _rows_done(spools.values())
        products = [Product(pooling_of(target, options), spool) for target, spool in spools.items()]
        items = read_slice(sources, options.rules, whole, options.shard, model.size.width)
        try:
            seconds = run_slice(items, model, products, options, part, progress, stop)
            for target, spool in spools.items():
                spool.finish(target.format, options.h5_layout, stop.check)
        except Stopped as stopped:
            n_rows = counted(next(iter(headers.values())).n_rows, "row")
            safe = f"{_rows_done(spools.values()):,} of {n_rows} or more are safe"
            raise type(stopped)(f"{stopped}; {safe}") from None
    return summary_of(paths, part, options, seconds, resumed)


def plan_slice(
    sources: Sequence[Source],
    whole: Census,
    targets: Sequence[Target],
    checkpoint: Path | None,
    options: EmbedOptions,
    sha256: Callable[[Path], str] = trust.sha256,
) -> tuple[dict[Target, Header], Census]:
    """Say what the outputs of a shard will hold; gives their headers, and the census of the shard."""
    with hashing(checkpoint, sha256) as digest:
        size = read_size(checkpoint)[0] if checkpoint else demo.SIZE
        layers = size.layer_indices(options.layers)
        part = census_of_shard(sources, whole, options, size)
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


def run_slice(
    items: Iterator[Record | Skipped],
    model: ProtRNA,
    products: Sequence[Product],
    options: EmbedOptions,
    part: Census,
    progress: Progress,
    stop: Stop,
) -> float:
    """Embed the records; returns the seconds it took, and keeps the rate for `--dry-run`."""
    layers = model.size.layer_indices(options.layers)
    job = Job(options.rules, layers, options.batch_tokens, options.dtype)
    progress.start(part.n_records, part.n_embedded)
    started = time.perf_counter()
    try:
        tokens = pipeline.embed(items, model, products, job, progress, stop)
    finally:
        progress.close()
    seconds = time.perf_counter() - started
    if seconds > MEASURABLE_SECONDS:
        rates.remember(weights.folder() / "rates.json", rate_key(model.size, options), tokens / seconds)
    return seconds


def load_checkpoint(checkpoint: Path | None, precision: str, device: str, threads: int | None) -> ProtRNA:
    """Load the model of a checkpoint that is at hand; None is the demo model."""
    from protrna_cli.model import runtime
    from protrna_cli.model.transformer import ProtRNA

    runtime.configure(device, threads)
    place = runtime.placer(precision)
    return ProtRNA(*(read_checkpoint(checkpoint, place) if checkpoint else demo.demo_weights(place)))


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


def census_of_shard(
    sources: Sequence[Source], whole: Census, options: EmbedOptions, size: ModelSize
) -> Census:
    if options.shard.count == 1:
        return whole
    part = Census(inputs=whole.inputs)
    part.count(read_slice(sources, options.rules, whole, options.shard, size.width), options.rules)
    return part


@contextmanager
def hashing(
    checkpoint: Path | None, sha256: Callable[[Path], str] = trust.sha256
) -> Iterator[Callable[[], str | None]]:
    """Hash a checkpoint meanwhile; gives what waits for its SHA-256, None for the demo model."""
    with ThreadPoolExecutor(1) as background:
        digest = background.submit(sha256, checkpoint) if checkpoint else None
        yield lambda: digest.result() if digest else None


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


def recommend(options: EmbedOptions, progress: Progress) -> None:
    """Tell who computes in float32 where bfloat16 is much faster; the demo model is fast anyway."""
    from protrna_cli.model import runtime

    if options.precision == "float32" and options.model != weights.DEMO and runtime.bfloat16_is_fast():
        progress.note("this machine is several times faster with --precision bfloat16, see the README")


def rate_key(size: ModelSize, options: EmbedOptions) -> str:
    threads = options.threads or available_cpus()
    return f"{size.layers}x{size.width} {options.precision} {options.device} {threads}"


def pooling_of(target: Target, options: EmbedOptions) -> str:
    return "none" if target.per_token else options.pool


def _rows_done(spools: Iterable[Spool]) -> int:
    """Rows that are durable in every one of the outputs."""
    return min(spool.position.rows for spool in spools)
