"""One run: from a counted input, or one shard of it, to finished outputs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from protrna_cli.errors import Stopped, UsageError
from protrna_cli.fasta.census import Census, CountedInput
from protrna_cli.fasta.copies import Copies
from protrna_cli.machine import available_cpus, available_memory
from protrna_cli.model.structure import ModelSize
from protrna_cli.output.paths import skipped_path
from protrna_cli.output.protect import remove_partial
from protrna_cli.output.provenance import exact_key
from protrna_cli.output.rows import Header
from protrna_cli.plan.values import AUTO
from protrna_cli.run import pipeline, rates
from protrna_cli.run.batching import RESIDUES
from protrna_cli.run.embedder import Absent, Embedder, InProcess
from protrna_cli.run.journal import Position
from protrna_cli.run.options import EmbedOptions
from protrna_cli.run.partial import PartialOutput
from protrna_cli.run.pipeline import Product, Request
from protrna_cli.run.precision import recommend_bfloat16
from protrna_cli.run.report import NOTHING, Amount, Progress, Summary
from protrna_cli.run.reuse import Reuse, plan_reuse
from protrna_cli.run.seats import Seat, choose_seats, note_of_unused_gpus
from protrna_cli.run.stop import Stop
from protrna_cli.run.targets import Target, check_space, is_whole, make_header
from protrna_cli.run.work import Work
from protrna_cli.run.workers import Workers
from protrna_cli.text import counted, shortened, size_text
from protrna_cli.weights.checkpoint import Checkpoint

MEASURABLE_SECONDS = 5.0
"""A shorter run does not measure the machine's speed well; nor does one that mostly reads what is resumed."""


@dataclass(frozen=True)
class ShardPlan:
    """The census and the output headers of one shard, before it runs.

    Attributes
    ----------
    size
        Size of the model.
    census
        Census of the shard.
    headers
        The header of each output.
    copies
        Finds the records that need not run.
    reuse
        What earlier outputs hold of the shard.
    """

    size: ModelSize
    census: Census
    headers: dict[Target, Header]
    copies: Copies
    reuse: Reuse | None = None

    @property
    def amount(self) -> Amount:
        """What the run computes in all."""
        computed = Amount(self.census.n_distinct, self.census.n_distinct_embedded)
        return computed - self.reuse.amount if self.reuse else computed


def embed_shard(
    counted_input: CountedInput,
    targets: Sequence[Target],
    checkpoint: Checkpoint,
    options: EmbedOptions,
    progress: Progress,
    stop: Stop,
) -> Summary:
    """Embed one shard of a counted input. The caller holds the output locks.

    Parameters
    ----------
    targets
        Outputs of one run of the model. With `resume`, outputs that are already complete are left alone.
    """
    paths = [target.path for target in targets]
    with stop.abandoning():
        plan = plan_shard(counted_input, targets, checkpoint, options)
        headers = _unfinished(plan.headers) if options.resume else plan.headers
        if not headers:
            return summary_of(paths, plan, options, already_whole=True)
        check_space(headers, progress)
        if plan.amount.records:  # refuse too many workers before anything starts
            seats_of(checkpoint, plan.size, plan.amount.residues, options)
    with ExitStack() as stack:
        partials = {
            target: stack.enter_context(PartialOutput(target.path, header, exact_key(header), options.resume))
            for target, header in headers.items()
        }
        products = [Product(pooling_of(target, options), partial) for target, partial in partials.items()]
        try:
            if plan.reuse:
                plan = _fill_reused(plan, plan.reuse, partials, progress, stop)
            resumed = saved(products)
            model = stack.enter_context(opened(checkpoint, plan, options, progress, stop))
            seconds, work = run_shard(counted_input, model, products, options, plan, progress, stop)
            for partial in partials.values():
                partial.complete()
            for target, partial in partials.items():
                partial.finish(target.format, stop.check)
        except Stopped as stopped:
            raise _telling_saved(stopped, products, plan.amount) from None
    return summary_of(paths, plan, options, seconds, resumed, work.n_reused)


def seats_of(checkpoint: Checkpoint, size: ModelSize, residues: int, options: EmbedOptions) -> list[Seat]:
    """Choose what each process of a run gets that computes so many residues; raises as `choose_seats`."""
    weight_bytes = 0
    if not checkpoint.mapped_copy(options.precision):
        weight_bytes = size.parameters * (2 if options.precision == "bfloat16" else 4)
    return choose_seats(options, residues, weight_bytes)


@contextmanager
def opened(
    checkpoint: Checkpoint, plan: ShardPlan, options: EmbedOptions, progress: Progress, stop: Stop
) -> Iterator[Embedder]:
    """Load the model in this process, or start the workers that do; none if nothing is to be computed."""
    if not plan.amount.records:
        yield Absent()
        return
    with ExitStack() as stack:
        with stop.abandoning():
            seats = seats_of(checkpoint, plan.size, plan.amount.residues, options)
            already = checkpoint.mapped_copy(options.precision)
            if len(seats) == 1:
                [seat] = seats
                loaded = checkpoint.load(options.precision, seat.device, seat.threads, progress.note)
                model: Embedder = stack.enter_context(InProcess(loaded))
                recommend_bfloat16(plan.size, options, progress)
            else:
                model = workers = stack.enter_context(
                    Workers(checkpoint, options.precision, seats, progress.note)
                )
                workers.wait()
        if not already and (copy := checkpoint.mapped_copy(options.precision)):
            progress.note(
                f"laid out the weights in {copy.parent} ({size_text(copy.stat().st_size)}): later runs start "
                "faster; protrna weights prune removes them"
            )
        if options.device == AUTO and not seats[0].gpu and (unused := note_of_unused_gpus()):
            progress.note(f"computing on the CPU: {unused}")
        if len(seats) > 1 and options.workers == AUTO:
            each = "a GPU" if seats[0].gpu else counted(seats[0].threads or 0, "thread")
            progress.note(f"{len(seats)} workers with {each} each")
        yield model


def _fill_reused(
    plan: ShardPlan, reuse: Reuse, partials: dict[Target, PartialOutput], progress: Progress, stop: Stop
) -> ShardPlan:
    """Fill in the vectors of earlier outputs, unless an earlier process did; returns what is left to run."""
    promised = reuse.amount.records
    unfilled = {target: partial for target, partial in partials.items() if not partial.position.reused}
    for target, partial in unfilled.items():
        with stop.abandoning():
            reuse = reuse.only(reuse.fill(target, partial.fill, stop.check))
    if lost := promised - reuse.amount.records:
        progress.note(
            "an output of --reuse was replaced or removed meanwhile; "
            f"{counted(lost, 'sequence')} that it held will be computed"
        )
    for partial in partials.values():
        partial.header = _with_reuse(partial.header, reuse.origins)
    for partial in unfilled.values():
        partial.commit_reused(reuse.json)
    headers = {target: _with_reuse(header, reuse.origins) for target, header in plan.headers.items()}
    return replace(plan, headers=headers, reuse=reuse, copies=plan.copies.reusing(reuse.held))


def _with_reuse(header: Header, origins: list[dict[str, Any]]) -> Header:
    return replace(header, provenance={**header.provenance, "reuse": origins})


def plan_shard(
    counted_input: CountedInput,
    targets: Sequence[Target],
    checkpoint: Checkpoint,
    options: EmbedOptions,
    across_chunks: bool = True,
) -> ShardPlan:
    """Count one shard and make the headers of its outputs, while the checkpoint is hashed.

    Parameters
    ----------
    across_chunks
        Whether a record may copy the vectors of an earlier chunk.
    """
    with checkpoint.hashing() as sha256:
        size = checkpoint.size()
        size.layer_indices(options.layers)
        shard = counted_input.of_shard(options.shard, size.width, across_chunks)
        census = shard.census
        if options.rules.long == "whole":
            check_memory(census.longest, census.longest_id, size)
        if not options.resume and not options.reuse and options.workers == 1:
            # Load TensorFlow while the checkpoint is hashed. With the others the run may not need it here.
            import protrna_cli.model.runtime  # noqa: F401
        headers = {
            target: make_header(target, options, size, sha256(), counted_input.census, census, across_chunks)
            for target in targets
        }
    if not options.reuse:
        return ShardPlan(size, census, headers, Copies(options.rules, shard.distinct))
    reuse, origins = plan_reuse(shard, headers, options)
    headers = {target: _with_reuse(header, origins) for target, header in headers.items()}
    copies = Copies(options.rules, shard.distinct, reused=reuse.held if reuse else None)
    return ShardPlan(size, census, headers, copies, reuse)


def run_shard(
    counted_input: CountedInput,
    model: Embedder,
    products: Sequence[Product],
    options: EmbedOptions,
    plan: ShardPlan,
    progress: Progress,
    stop: Stop,
) -> tuple[float, Work]:
    """Embed the records of one shard; returns the seconds it took, and stores the speed for `--dry-run`."""
    layers = plan.size.layer_indices(options.layers)
    request = Request(options.rules, layers, options.budget, options.dtype)
    items = counted_input.records(options.shard, plan.size.width)
    if note := plan.census.note():
        progress.note(note)
    progress.start(plan.amount, saved(products))
    started = time.perf_counter()
    try:
        work = pipeline.embed(items, model, products, request, progress, stop, plan.copies)
    finally:
        progress.close()
    seconds = time.perf_counter() - started
    if seconds > MEASURABLE_SECONDS and work.tokens > plan.amount.residues // 10:
        speed = work.speed(plan.size, max(layers), seconds)
        rates.remember(rates.rates_file(), rate_key(plan.size, options), speed)
    return seconds, work


def summary_of(
    outputs: Sequence[Path],
    plan: ShardPlan,
    options: EmbedOptions,
    seconds: float = 0.0,
    resumed: Amount = NOTHING,
    n_reused: int = 0,
    already_whole: bool = False,
) -> Summary:
    """Summarise the run of one shard."""
    census = plan.census
    return Summary(
        output=" and ".join(map(str, outputs)),
        n_records=census.n_records,
        n_regions=census.n_rows if options.rules.regions else 0,
        n_residues=census.n_embedded,
        n_unknown=census.n_unknown,
        n_long=census.n_long,
        long=options.rules.long,
        max_length=options.rules.max_length,
        n_skipped=census.n_skipped,
        skipped_list=str(skipped_path(outputs[0])),
        computed=plan.amount,
        reuses=bool(options.reuse),
        n_reused=n_reused,
        seconds=seconds,
        resumed=plan.amount if already_whole else resumed,
        already_whole=already_whole,
    )


def saved(products: Sequence[Product]) -> Amount:
    """Count what is durable in all outputs of a run."""
    position = min((each.sink.position for each in products), key=lambda at: (at.chunks, at.batches))
    return Amount(position.records, position.residues)


def rate_key(size: ModelSize, options: EmbedOptions) -> str:
    """Key of a remembered speed: model size, precision, device and threads."""
    threads = options.threads or available_cpus()
    key = f"{size.layers} layers of {size.width}, {options.precision}, {options.device}, {threads} threads"
    return key if options.workers == 1 else f"{key}, {options.workers} workers"


def pooling_of(target: Target, options: EmbedOptions) -> str:
    """Pooling for a target: `residues` for one vector per residue."""
    return RESIDUES if target.per_token else options.pool


def _unfinished(headers: dict[Target, Header]) -> dict[Target, Header]:
    """Select the outputs that are not complete; an `OUT.partial` beside a complete one is removed."""
    unfinished = {}
    for target, header in headers.items():
        if is_whole(target.path, header):
            remove_partial(target.path)
        else:
            unfinished[target] = header
    return unfinished


def check_memory(length: int, record_id: str, size: ModelSize) -> None:
    """Refuse a record that does not fit into memory in one piece, before it is computed.

    Parameters
    ----------
    length, record_id
        Its length in residues, and its id.
    """
    needed = size.attention_bytes(length + 2)
    free = available_memory()
    if free is not None and needed > free:
        raise UsageError(
            f"record {shortened(record_id)} of {length:,} residues needs "
            f"{size_text(needed)} of memory in one piece, but only {size_text(free)} are free; "
            "use --long window"
        )


def _telling_saved(stopped: Stopped, products: Sequence[Product], total: Amount) -> Stopped:
    """Add to a stop how much is saved, if anything is."""
    if all(product.sink.position == Position() for product in products):
        return stopped
    return stopped.with_saved(f"{saved(products).records:,} of {counted(total.records, 'record')} are saved")
