"""Estimate a run by counting its batches one by one; no model is loaded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, NamedTuple

from protrna_cli.fasta.copies import MAX_SEQUENCES
from protrna_cli.machine import available_cpus
from protrna_cli.model.structure import batches_at_once, row_count
from protrna_cli.output.files import journal_path
from protrna_cli.output.provenance import settings_account
from protrna_cli.output.rows import BLOCK_BYTES
from protrna_cli.plan.pieces import into_chunks
from protrna_cli.plan.rules import POOLINGS, RESIDUES
from protrna_cli.run.auto import Work, of_doctor, rates_file, recall
from protrna_cli.run.loop import Chunk
from protrna_cli.run.options import DTYPE_BYTES
from protrna_cli.run.outputs import Position, Target, read_position, run_settings
from protrna_cli.run.run import Run, rate_key
from protrna_cli.run.workers import WIDEST
from protrna_cli.text import aligned, counted, duration_text, enumerated, printable, size_text

# Memory on a CPU, as measured with models of 3 to 33 layers and 40 to 1,280 wide.

RUNTIME_BYTES = 830 << 20
"""Python and TensorFlow, with what TensorFlow compiles for any run."""

SHAPE_BYTES = 960 << 10
"""What oneDNN compiles and keeps for each shape (B, T) of a batch."""

KEPT_SHAPES = 340
"""Shapes that oneDNN keeps."""

ACTIVATIONS = 17
"""Most arrays (rows, D) that a layer needs at one time."""

RESIDUE_ARRAYS = 3
"""Arrays (B, T, D) per layer taken, if the vectors of all residues leave the model."""

TRIAL_OPERATIONS = 1.7e11
"""Operations of the batch of a trial: 128 tokens of the published model, less than a second on two cores. A
small model gets more tokens, up to a whole batch; with as few, it would seem twice as slow as it is."""


class Source(NamedTuple):
    """What a speed is known from: in words, and how many times the estimate a run may take."""

    told: str
    least: float
    most: float


SOURCES = {
    "runs": Source("as fast as the last runs like it", 0.75, 1.4),
    "doctor": Source("as fast as protrna doctor measured", 0.6, 2.0),
    "trial": Source("as fast as a short trial", 0.5, 2.5),
}
"""How much runs on an idle and on a busy machine differ from what was measured."""

SEQUENCE_BYTES = 50
"""What the table of distinct sequences needs for each, while it grows."""


@dataclass(frozen=True)
class Estimate:
    """Counts and estimates for a run."""

    inputs: list[str]  # names of the files
    settings: dict[str, Any]  # model, layers, numbers and rules, as in the provenance of the first output
    # Counts of the census.
    records: int
    rows: int
    residues: int
    unknown: int
    long: int
    skipped: int
    # Earlier outputs, and records whose sequences they hold.
    reuse: list[str]
    reused: int
    # Of the others, those that run, and those that get the vectors of another one.
    computed: int
    copied: int
    saved: int  # of those that run, how many an unfinished run has saved, which `resume` continues
    # Tokens that run, number of batches, and the share of padding rows among all rows that run.
    tokens: int
    batches: int
    padding_share: float
    output_bytes: int  # uncompressed size of the vectors; Parquet is about a tenth smaller
    memory_bytes: int  # approximate peak memory of the process, or of all workers together, on a CPU
    # Time without loading the model, and between what times it will probably be; None if no speed is known.
    seconds: float | None
    seconds_range: tuple[float, float] | None
    # What knows the speed: the last `runs` with the same model size, precision, device and threads, `doctor`,
    # or a short `trial`.
    seconds_from: str | None

    def json(self) -> str:
        return json.dumps(asdict(self))

    def text(self) -> str:
        """Tell what will run, and what it will take, in words."""
        told = {
            "input": printable(enumerated(self.inputs)),
            "records": f"{self.records:,}{_besides(long=self.long)}",
            **self._distinct(),
            "skipped records": f"{self.skipped:,}",
            "residues": f"{self.residues:,}{_besides(unknown=self.unknown)}",
            **settings_account(self.settings),
            "work": f"{counted(self.tokens, 'token')} in {self.batches:,} batches, "
            f"{self.padding_share:.1%} padding",
            "output": f"{counted(self.rows, 'row')}, {size_text(self.output_bytes)}",
            "peak memory": size_text(self.memory_bytes),
            "time": self._time(),
        }
        return aligned(told)

    def _time(self) -> str:
        if self.seconds_range is None or self.seconds_from is None:
            return "unknown before the first run"
        low, high = (duration_text(seconds) for seconds in self.seconds_range)
        told = low if low == high else f"{low} to {high}"
        return f"{told}, {SOURCES[self.seconds_from].told}"

    def _distinct(self) -> dict[str, str]:
        told = {}
        if self.reuse:
            told["reused"] = f"{self.reused:,} reused, {self.records - self.reused:,} new"
        if self.copied:
            told["distinct"] = f"{self.computed:,} computed, {self.copied:,} copied"
        if self.saved:
            told["saved"] = f"{self.saved:,} of {counted(self.computed, 'record')}, by the unfinished run"
        return told


def _besides(**counts: int) -> str:
    """Add the counts that are not zero, as in `46, 1 of them long`."""
    return "".join(f", {number:,} of them {kind}" for kind, number in counts.items() if number)


def estimate(run: Run, trial: bool = False) -> Estimate:
    """Count the batches of a run without running them.

    trial: measure the speed with one small batch if it is not known.
    """
    size, options, census = run.size, run.options, run.shard.census
    work, n_computed, n_reused = Work(), 0, 0
    saved = _saved(run.targets) if options.resume else Position()
    lengths: Counter[int] = Counter()
    for number, items in enumerate(into_chunks(run.records())):
        chunk = Chunk(number, items, run.copies, options)
        n_computed += len(chunk.running)
        n_reused += chunk.n_reused
        for batch in chunk.batches[saved.batches_of(number) :] if number >= saved.chunks else []:
            work.add(chunk.token_counts(batch))
            lengths.update(chunk.token_counts(batch))
    processes = len(run.seats())
    source, speed = _speed(run, median(lengths.elements()) if trial and lengths else None)
    seconds = work.seconds(size, max(run.layers), speed) if speed else None
    return Estimate(
        inputs=[source["name"] for source in census.inputs],
        settings=run_settings(options, size, run.targets[0].per_token),
        records=census.n_records,
        rows=census.n_rows,
        residues=census.n_embedded,
        unknown=census.n_unknown,
        long=census.n_long,
        skipped=census.n_skipped,
        computed=n_computed,
        copied=census.n_records - n_reused - n_computed,
        saved=saved.records,
        reuse=list(options.reuse),
        reused=n_reused,
        tokens=work.tokens,
        batches=work.batches,
        padding_share=1 - work.tokens / work.rows if work.rows else 0.0,
        output_bytes=sum(_output_bytes(target, run) for target in run.targets),
        memory_bytes=(
            RUNTIME_BYTES * processes
            + SEQUENCE_BYTES * min(census.n_distinct, MAX_SEQUENCES)
            + _model_bytes(work, run, processes)
            + _residue_bytes(work, run)
            + max(_writing_bytes(target, run) for target in run.targets)
        ),
        seconds=seconds,
        seconds_range=(seconds * SOURCES[source].least, seconds * SOURCES[source].most) if seconds else None,
        seconds_from=source if seconds else None,
    )


def _speed(run: Run, length: float | None) -> tuple[str, float | None]:
    """Find out how fast the machine is, and from what: operations per second, or None.

    length: median length of the pieces in tokens, for a trial; None for no trial.
    """
    key = rate_key(run.size, run.options)
    for source, known in (("runs", key), ("doctor", of_doctor(key))):
        if speeds := recall(rates_file(), known):
            return source, median(speeds)
    return "trial", _tried(run, int(length)) if length else None


def _tried(run: Run, length: int) -> float | None:
    """Measure the speed with one small batch; None where loading the model takes long, or on a GPU."""
    checkpoint, options = run.checkpoint, run.options
    is_quick = checkpoint.mapped_copy(options.precision) or checkpoint.path is None
    if options.workers != 1 or not is_quick:
        return None
    from protrna_cli.model import trial

    model = checkpoint.load(options.precision, options.device, options.threads)
    if "GPU" in model.device:  # so small a batch says nothing about it
        return None
    tokens = min(options.budget, int(TRIAL_OPERATIONS / run.size.operations))
    count = max(1, tokens // length)
    work = Work()
    work.add([length] * count)
    return work.operations(run.size, run.size.layers) / trial.quick_seconds(model, length - 2, count)


def _saved(targets: Sequence[Target]) -> Position:
    """How far the unfinished runs of all outputs got; a damaged journal counts as none."""
    try:
        return min(read_position(journal_path(target.path)) for target in targets)
    except (OSError, ValueError, TypeError):
        return Position()


def _vector_bytes(run: Run) -> int:
    """Bytes of one vector of an output, in all its layers."""
    return run.size.width * len(run.layers) * DTYPE_BYTES[run.options.dtype]


def _output_bytes(target: Target, run: Run) -> int:
    """Bytes of the vectors of an output."""
    census = run.shard.census
    return (census.n_embedded if target.per_token else census.n_rows) * _vector_bytes(run)


def _model_bytes(work: Work, run: Run, processes: int) -> int:
    """Memory of the weights, which processes share, and of the batches that run at once."""
    size, options = run.size, run.options
    # In bfloat16 the scores are there in float32 too, for the softmax; so are most of the activations.
    weight, score = {"float32": (4, 4), "bfloat16": (2, 6)}[options.precision]

    def batch_bytes(shapes: Sequence[tuple[int, int]], rows: int) -> int:
        scores = max((pieces * tokens**2 for pieces, tokens in shapes), default=0)
        return score * size.heads * scores + (ACTIVATIONS * 4 * size.width * rows if shapes else 0)

    wide = batch_bytes([shape for shape in work.shapes if shape[1] > WIDEST], max(work.row_counts, default=0))
    beside = batch_bytes(
        [shape for shape in work.shapes if shape[1] <= WIDEST],
        min(row_count(options.budget), max(work.row_counts, default=0)),
    )
    at_once = batches_at_once(options.threads or available_cpus())
    running = wide + min(at_once, work.batches) * beside if processes == 1 else processes * max(wide, beside)
    compiled = SHAPE_BYTES * min(len(work.shapes), KEPT_SHAPES)
    return weight * size.parameters + running + processes * compiled


def _residue_bytes(work: Work, run: Run) -> int:
    """Memory of the vectors of residues between the model and the output, if they leave the model."""
    rules, census = run.options.rules, run.shard.census
    in_windows = rules.long == "window" and census.n_long > 0
    by_residue = any(target.per_token for target in run.targets) or rules.regions
    if not by_residue and not (in_windows and POOLINGS[run.options.pool].windows == RESIDUES):
        return 0
    vectors = RESIDUE_ARRAYS * max((pieces * tokens for pieces, tokens in work.shapes), default=0)
    if in_windows:
        vectors += 2 * census.longest  # the joined record, and its copy in the output's type
    return 4 * run.size.width * len(run.layers) * vectors


def _writing_bytes(target: Target, run: Run) -> int:
    """Memory for writing an output in its format, block by block."""
    if target.format.name == "npy":
        return 0
    longest = run.shard.census.longest if target.per_token else 1
    block = min(_output_bytes(target, run), max(BLOCK_BYTES, longest * _vector_bytes(run)))
    # Parquet compresses one column at a time, and needs three times its size for that.
    columns = 3 * block // len(run.layers) if target.format.name == "parquet" else 0
    return block + columns
