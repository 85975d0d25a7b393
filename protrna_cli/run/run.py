"""One run: from a counted input, or one shard of it, to finished outputs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from protrna_cli.errors import Stopped, UsageError
from protrna_cli.fasta.census import CountedInput
from protrna_cli.fasta.copies import Copies
from protrna_cli.fasta.records import Record, Skipped
from protrna_cli.machine import available_cpus, available_memory
from protrna_cli.model.structure import PUBLISHED_SIZE, ModelSize
from protrna_cli.output.files import skipped_path
from protrna_cli.output.protect import remove_partial
from protrna_cli.output.rows import Header
from protrna_cli.plan.rules import AUTO
from protrna_cli.run import auto
from protrna_cli.run.auto import Seat, choose_seats, note_of_unused_gpus, recommend_bfloat16
from protrna_cli.run.loop import Loop, Output
from protrna_cli.run.options import EmbedOptions
from protrna_cli.run.outputs import PartialOutput, Position, Target, check_space, is_whole, run_settings
from protrna_cli.run.report import NOTHING, Amount, Progress, Stop, Summary
from protrna_cli.run.reuse import Reuse, find_reusable
from protrna_cli.run.workers import Absent, Embedder, InProcess, Workers
from protrna_cli.text import counted, shortened, size_text, version
from protrna_cli.weights.checkpoint import DEMO_NOTICE, Checkpoint

if TYPE_CHECKING:
    from protrna_cli.model.transformer import ProtRNA

MEASURABLE_SECONDS = 5.0
"""A shorter run does not measure the machine's speed well; nor does one that mostly reads what is resumed."""


class Run:
    """One shard of a counted input, the model, and the outputs that are to be made.

    layers: the indices of the layers to take.
    shard: the shard, with its census once it is counted; before, the whole input.
    headers: the header of each output, once they are planned.
    reuse: what earlier outputs hold of the shard, likewise.
    copies: finds the records that need not run, once the shard is counted.
    device: what it runs on, once the model is loaded; empty before, and if nothing is to be computed.
    seconds, resumed, n_reused: how long it ran, what an earlier process had computed, and how many records
        were reused.
    """

    def __init__(
        self,
        counted_input: CountedInput,
        targets: Sequence[Target],
        checkpoint: Checkpoint,
        options: EmbedOptions,
    ) -> None:
        self.targets, self.options, self.checkpoint = targets, options, checkpoint
        self._input = self.shard = counted_input
        self.size = checkpoint.size() if checkpoint.is_there else PUBLISHED_SIZE
        self.layers = self.size.layer_indices(options.layers)
        self.copies = Copies(options.rules)
        self.headers: dict[Target, Header] = {}
        self.reuse: Reuse | None = None
        self.device = ""
        self.seconds, self.resumed, self.n_reused = 0.0, NOTHING, 0

    def count(self, across_chunks: bool = True) -> None:
        """Count the shard; `across_chunks` is whether a record may copy the vectors of an earlier chunk."""
        options = self.options
        self.shard = self._input.of_shard(options.shard, self.size.width, across_chunks)
        if options.rules.long == "whole":
            check_memory(self.shard.census.longest, self.shard.census.longest_id, self.size)
        self.copies = Copies(options.rules, self.shard.distinct)

    def plan(self, across_chunks: bool = True) -> None:
        """Count the shard, and make the headers of the outputs, for which the checkpoint is hashed."""
        options = self.options
        with self.checkpoint.hashing() as sha256:
            self.count(across_chunks)
            if not options.resume and not options.reuse and options.workers == 1:
                # Load TensorFlow while the checkpoint is hashed; with the others it may not be needed here.
                import protrna_cli.model.runtime  # noqa: F401
            self.headers = {target: self.header(target, sha256()) for target in self.targets}
        if options.reuse:
            self._take(find_reusable(self.shard, self.headers, options))

    def header(self, target: Target, weights_sha256: str | None) -> Header:
        """Make the header of an output before the run; the demo model has no file, and so no SHA-256."""
        options, whole, census = self.options, self._input.census, self.shard.census
        settings = run_settings(options, self.size, target.per_token)
        provenance: dict[str, Any] = {
            "version": version(),
            **settings,
            "model": {**settings["model"], "weights_sha256": weights_sha256},
            "shard": str(options.shard),
            "inputs": whole.recorded_inputs,
            "records": whole.n_records + whole.n_skipped,
            "embedded": census.n_records,
            "skipped": census.n_skipped,
        }
        if self.shard.distinct is not None:
            provenance["distinct"] = census.n_distinct
        if weights_sha256 is None:
            provenance["notice"] = DEMO_NOTICE
        counts = census.n_rows, census.n_pooled
        if target.per_token:
            counts = census.n_records, census.n_embedded
        return Header(target.per_token, self.layers, self.size.width, options.dtype, *counts, provenance)

    def _take(self, reuse: Reuse) -> None:
        """Take vectors from earlier outputs; the headers say which these are."""
        self.reuse = reuse
        self.copies = self.copies.reusing(reuse.held)
        self._tell(reuse=reuse.origins)

    def _tell(self, **facts: Any) -> None:
        self.headers = {target: header.adding(**facts) for target, header in self.headers.items()}

    def records(self) -> Iterator[Record | Skipped]:
        """Read the records of the shard, in input order."""
        return self._input.records(self.options.shard, self.size.width)

    @property
    def amount(self) -> Amount:
        """What it computes in all."""
        computed = Amount(self.shard.census.n_distinct, self.shard.census.n_distinct_embedded)
        return computed - self.reuse.amount if self.reuse else computed

    def seats(self) -> list[Seat]:
        """Choose what each process of the run gets."""
        weight_bytes, precision = 0, self.options.precision
        if not self.checkpoint.mapped_copy(precision):
            weight_bytes = self.size.parameters * (2 if precision == "bfloat16" else 4)
        return choose_seats(self.options, self.amount.residues, weight_bytes)

    def unfinished(self) -> dict[Target, Header]:
        """Select the outputs that are not complete; an `OUT.partial` beside a complete one is removed."""
        unfinished = {}
        for target, header in self.headers.items():
            if self.options.resume and is_whole(target.path, header):
                remove_partial(target.path)
            else:
                unfinished[target] = header
        return unfinished

    def fill_reused(self, partials: dict[Target, PartialOutput], progress: Progress, stop: Stop) -> None:
        """Fill in the vectors of earlier outputs, unless an earlier process did; the rest is left to run."""
        if not self.reuse:
            return
        reuse, promised = self.reuse, self.reuse.amount.records
        unfilled = {target: partial for target, partial in partials.items() if not partial.position.reused}
        for target, partial in unfilled.items():
            with stop.abandoning():
                reuse = reuse.only(reuse.fill(target, partial.fill, stop.check))
        if lost := promised - reuse.amount.records:
            progress.note(
                "an output of --reuse was replaced or removed meanwhile; "
                f"{counted(lost, 'sequence')} that it held will be computed"
            )
        self._take(reuse)
        for target, partial in partials.items():
            partial.header = self.headers[target]
        for partial in unfilled.values():
            partial.commit_reused(reuse.json)

    @contextmanager
    def model(self, progress: Progress, stop: Stop) -> Iterator[Embedder]:
        """Load the model in this process, or start the workers that do; none if nothing is to be computed."""
        if not self.amount.records:
            yield Absent()
            return
        checkpoint, precision, seats = self.checkpoint, self.options.precision, self.seats()
        with ExitStack() as stack:
            with stop.abandoning():
                already = checkpoint.mapped_copy(precision)
                if len(seats) == 1:
                    [seat] = seats
                    loaded = checkpoint.load(precision, seat.device, seat.threads, progress.note)
                    model: Embedder = stack.enter_context(InProcess(loaded))
                    self.device = _name_of(loaded)
                    recommend_bfloat16(self.size, self.options, progress)
                else:
                    model = workers = stack.enter_context(
                        Workers(checkpoint, precision, seats, progress.note)
                    )
                    workers.wait()
                    self.device = counted(len(seats), "GPU") if seats[0].gpu else "CPU"
            self._tell(device=self.device)
            if not already and (copy := checkpoint.mapped_copy(precision)):
                progress.note(
                    f"laid out the weights in {copy.parent} ({size_text(copy.stat().st_size)}): "
                    "later runs start faster; protrna weights prune removes them"
                )
            if self.options.device == AUTO and not seats[0].gpu and (unused := note_of_unused_gpus()):
                progress.note(f"computing on the CPU: {unused}")
            if len(seats) > 1 and self.options.workers == AUTO:
                share = "a GPU" if seats[0].gpu else counted(seats[0].threads or 0, "thread")
                progress.note(f"{len(seats)} workers with {share} each")
            yield model

    def embed(self, model: Embedder, outputs: Sequence[Output], progress: Progress, stop: Stop) -> None:
        """Embed the records of the shard, and store the speed for `--dry-run`."""
        options = replace(self.options, layers=self.layers)
        loop = Loop(model, outputs, options, self.copies)
        if note := self.shard.census.note():
            progress.note(note)
        progress.start(self.amount, saved(outputs))
        started = time.perf_counter()
        try:
            loop.run(self.records(), progress, stop)
        finally:
            progress.close()
        self.seconds, self.n_reused = time.perf_counter() - started, loop.n_reused
        if self.seconds > MEASURABLE_SECONDS and loop.work.tokens > self.amount.residues // 10:
            speed = loop.work.speed(self.size, max(self.layers), self.seconds)
            auto.remember(auto.rates_file(), rate_key(self.size, options), speed)

    def summary(self, already_whole: bool = False) -> Summary:
        """Summarise the run."""
        census, rules, paths = self.shard.census, self.options.rules, [target.path for target in self.targets]
        return Summary(
            output=" and ".join(map(str, paths)),
            n_records=census.n_records,
            n_regions=census.n_rows if rules.regions else 0,
            n_residues=census.n_embedded,
            n_unknown=census.n_unknown,
            n_long=census.n_long,
            long=rules.long,
            max_length=rules.max_length,
            n_skipped=census.n_skipped,
            skipped_list=str(skipped_path(paths[0])),
            computed=self.amount,
            reuses=bool(self.options.reuse),
            n_reused=self.n_reused,
            seconds=self.seconds,
            device=self.device,
            resumed=self.amount if already_whole else self.resumed,
            already_whole=already_whole,
        )


def embed_shard(run: Run, progress: Progress, stop: Stop) -> Summary:
    """Embed one shard of a counted input. The caller holds the output locks.

    With `resume`, outputs that are already complete are left alone.
    """
    with stop.abandoning():
        run.plan()
        headers = run.unfinished()
        if not headers:
            return run.summary(already_whole=True)
        check_space(headers, progress)
        if run.amount.records:
            run.seats()  # refuses too many workers before anything starts
    with ExitStack() as stack:
        partials = {
            target: stack.enter_context(PartialOutput(target.path, header, run.options.resume))
            for target, header in headers.items()
        }
        outputs = list(partials.values())
        try:
            run.fill_reused(partials, progress, stop)
            run.resumed = saved(outputs)
            model = stack.enter_context(run.model(progress, stop))
            for target, partial in partials.items():
                partial.header = run.headers[target]
            run.embed(model, outputs, progress, stop)
            for partial in outputs:
                partial.complete()
            for target, partial in partials.items():
                partial.finish(target.format, stop.check)
        except Stopped as stopped:
            if all(output.position == Position() for output in outputs):
                raise
            total = counted(run.amount.records, "record")
            raise stopped.with_saved(f"{saved(outputs).records:,} of {total} are saved") from None
    return run.summary()


def saved(outputs: Sequence[Output]) -> Amount:
    """Count what is durable in all outputs of a run."""
    position = min(output.position for output in outputs)
    return Amount(position.records, position.residues)


def _name_of(model: ProtRNA) -> str:
    if "GPU" not in model.device:
        return "CPU"
    from protrna_cli.model import runtime

    return runtime.gpu_name(model.device)


def rate_key(size: ModelSize, options: EmbedOptions) -> str:
    """Key of a remembered speed: model size, precision, device and threads."""
    threads = options.threads or available_cpus()
    key = f"{size.layers} layers of {size.width}, {options.precision}, {options.device}, {threads} threads"
    return key if options.workers == 1 else f"{key}, {options.workers} workers"


def check_memory(length: int, record_id: str, size: ModelSize) -> None:
    """Refuse a record that does not fit into memory in one piece, before it is computed."""
    needed = size.attention_bytes(length + 2)
    free = available_memory()
    if free is not None and needed > free:
        raise UsageError(
            f"record {shortened(record_id)} of {length:,} residues needs "
            f"{size_text(needed)} of memory in one piece, but only {size_text(free)} are free; "
            "use --long window"
        )
