"""Replace the values `auto` of the options by what suits this machine, or by what the run to resume used.

Speeds that were measured on this machine, and what a run computes, counted batch by batch: from both follows
the time that `--dry-run` tells.

Precision: float32 or bfloat16, by how fast this machine multiplies in either. The trial takes some 50 ms, and
its result is kept with the speeds.

Seats: how many processes a run gets, and what each of them gets of the machine.

Legend: B pieces of a batch, T tokens of the longest, D width, H heads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from protrna_cli.disk import write_whole
from protrna_cli.errors import ProtrnaError, UsageError
from protrna_cli.machine import Gpu, available_cpus, available_memory, gpu_cards, parse_device, visible_gpus
from protrna_cli.model.structure import ModelSize, row_count
from protrna_cli.output.files import journal_path, manifest_path
from protrna_cli.output.stored import open_output
from protrna_cli.plan.rules import AUTO
from protrna_cli.run.options import EmbedOptions, Precision
from protrna_cli.run.report import Progress
from protrna_cli.text import counted
from protrna_cli.weights.checkpoint import weights_folder_if_any

if TYPE_CHECKING:
    from protrna_cli.model.transformer import ProtRNA


KEPT = 5
"""How many speeds of a kind are kept, so that one which a busy machine spoiled does not stay for ever."""


def rates_file() -> Path | None:
    """File with the remembered speeds; None for a user without a home folder."""
    folder = weights_folder_if_any()
    return folder / "rates.json" if folder else None


def of_doctor(key: str) -> str:
    """Key of the speed that `protrna doctor` measured, which a run goes before."""
    return f"{key}, doctor"


def recall(file: Path | None, key: str) -> list[float]:
    """Read the last speeds of this kind, newest first, as they were remembered."""
    kept = _rates(file).get(key)
    kept = kept if isinstance(kept, list) else [kept]  # version 0.2.0 kept one
    return [float(rate) for rate in kept if isinstance(rate, (int, float)) and rate > 0]


def remember(file: Path | None, key: str, rate: float) -> None:
    """Record a speed, in operations per second; does nothing if there is no file, or it cannot be written."""
    if file is None:
        return
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        newest = [round(rate, 2), *recall(file, key)][:KEPT]
        write_whole(file, json.dumps({**_rates(file), key: newest}), shared=True)


def _rates(file: Path | None) -> dict[str, object]:
    if file is None:
        return {}
    try:
        rates = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return rates if isinstance(rates, dict) else {}


BATCH_LAYER_SECONDS = 0.002
"""Fixed time of a batch in a layer, as measured."""

COMPILE_SECONDS = 0.4
"""Time to compile the fused operations for a new number of rows, as measured."""

SCORE_OPERATIONS = 70
"""What the softmax costs for one attention score, in operations of a matmul, as measured for 16 to 6,000
tokens."""


@dataclass
class Work:
    """Counts of the batches of a run."""

    # Tokens that run, and batches.
    tokens: int = 0
    batches: int = 0
    rows: int = 0  # rows of matmuls: the tokens, and the empty rows at the end of each batch
    scores: int = 0  # attention scores per head and layer, with padding: B T² per batch
    shapes: set[tuple[int, int]] = field(default_factory=set)  # the different (B, T)
    row_counts: set[int] = field(default_factory=set)  # the different numbers of rows of a batch

    def add(self, token_counts: list[int]) -> None:
        """Count a batch, given the tokens of each of its pieces."""
        longest, tokens = max(token_counts), sum(token_counts)
        self.tokens += tokens
        self.batches += 1
        self.rows += row_count(tokens)
        self.scores += len(token_counts) * longest**2
        self.shapes.add((len(token_counts), longest))
        self.row_counts.add(row_count(tokens))

    def operations(self, size: ModelSize, layers: int) -> int:
        """Count the operations of the first `layers` layers.

        Per layer: 24 D² for a row; for a score, 4 D in the two matmuls of all heads, and the softmax of each.
        """
        per_score = 4 * size.width + SCORE_OPERATIONS * size.heads
        return layers * (24 * size.width**2 * self.rows + per_score * self.scores)

    def fixed_seconds(self, layers: int) -> float:
        """Time that does not depend on the speed of matmuls."""
        return BATCH_LAYER_SECONDS * layers * self.batches + COMPILE_SECONDS * len(self.row_counts)

    def speed(self, size: ModelSize, layers: int, seconds: float) -> float:
        """Operations per second of a run that took `seconds`."""
        computing = max(seconds - self.fixed_seconds(layers), seconds / 2)  # another machine's may be shorter
        return self.operations(size, layers) / computing

    def seconds(self, size: ModelSize, layers: int, speed: float) -> float:
        """Time of a run at this speed, in operations per second."""
        return self.fixed_seconds(layers) + self.operations(size, layers) / speed


WORTH_IT = 1.5
"""How many times as fast bfloat16 must be to be taken, or to be recommended."""

SMALL_MODEL = 50_000_000
"""Parameters of a model whose speed nobody needs to think about; the published one has 651 million."""


def faster_precision(options: EmbedOptions) -> Precision:
    """Choose bfloat16 where it is worth it, otherwise float32."""
    return "bfloat16" if _gain(options) >= WORTH_IT else "float32"


def recommend_bfloat16(size: ModelSize, options: EmbedOptions, progress: Progress) -> None:
    """Recommend bfloat16 if it is much faster here than float32."""
    if options.precision == "float32" and size.parameters > SMALL_MODEL and _gain(options) >= WORTH_IT:
        progress.note(
            f"this machine multiplies {_gain(options):.1f} times as fast with --precision bfloat16, see "
            "protrna help precision"
        )


def _gain(options: EmbedOptions) -> float:
    """How many times as fast as in float32 the device multiplies in bfloat16, as measured here once."""
    from protrna_cli.model import runtime, trial

    device = runtime.configure(options.device, options.threads)
    key = f"bfloat16 to float32, {device}, {options.threads or available_cpus()} threads"
    if known := recall(rates_file(), key):
        return known[0]
    gain = trial.bfloat16_gain(runtime.tensorflow_name(device))
    remember(rates_file(), key, gain)
    return gain


WORKER_BYTES = 1 << 30
"""Memory of a worker on a CPU besides the weights: 0.57 GiB were measured with the published model."""

BATCHES_A_WORKER = 4
"""Fewest batches for which starting another process is worth it."""


class Seat(NamedTuple):
    """What one process gets of the machine."""

    # As in `load_model`.
    device: str
    threads: int | None
    # The GPU that it sees, by its name in `CUDA_VISIBLE_DEVICES`; None for all that there are.
    gpu: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of the process."""
        return {**os.environ, "CUDA_VISIBLE_DEVICES": self.gpu} if self.gpu else dict(os.environ)


def choose_seats(options: EmbedOptions, tokens: int, weight_bytes: int) -> list[Seat]:
    """Choose what each process of a run gets.

    On a CPU `auto` gives each process one thread. Two cores get one process, which runs two batches at once
    and so is as fast as two of one thread (published model, a CPU with AMX).

    tokens: about how many tokens will run.
    weight_bytes: memory for weights that each process needs for itself; 0 if they are mapped.

    Returns a seat for each process; one alone is the whole machine, for a run without workers.
    """
    if options.workers == 1:
        return [Seat(options.device, options.threads)]
    useful = max(1, tokens // (BATCHES_A_WORKER * options.budget))
    if gpus := _gpus(options):
        count = min(len(gpus), useful) if options.workers == AUTO else int(options.workers)
        if count > len(gpus):
            raise UsageError(
                f"--workers {count}, but there are {counted(len(gpus), 'GPU')}, and a worker needs one; use "
                f"--workers {len(gpus)}, or --device cpu"
            )
        return [Seat("gpu", _share(options, count), gpu.name) for gpu in gpus[:count]]
    if parse_device(options.device)[0] == "gpu":
        remedy = note_of_unused_gpus() or "use --device cpu"
        raise UsageError(f"there is no {options.device}: TensorFlow sees 0 GPUs; {remedy}")
    if options.workers == AUTO:
        count = min(useful, _room(options, weight_bytes))
    else:
        count = int(options.workers)
        _refuse_more(count, weight_bytes)
    if count == 1:
        return [Seat(options.device, options.threads)]
    return [Seat("cpu", _share(options, count))] * count


def note_of_unused_gpus() -> str | None:
    """Say which GPUs this machine has and TensorFlow does not use; it is asked only if there are some."""
    if not gpu_cards():
        return None
    from protrna_cli.model import runtime

    return runtime.unused_gpus()


def threads_of_worker(options: EmbedOptions) -> int:
    """CPU threads of a worker that runs on a CPU, or of the run if there are none."""
    count = available_cpus() if options.workers == AUTO else int(options.workers)
    return _share(options, count)


def _share(options: EmbedOptions, count: int) -> int:
    """CPU threads of each of so many processes."""
    return options.threads or max(1, available_cpus() // count)


def _room(options: EmbedOptions, weight_bytes: int) -> int:
    """How many workers the cores and the memory have room for."""
    if available_cpus() <= 2 and not options.threads:
        return 1
    return max(1, min(available_cpus() // threads_of_worker(options), _fitting(weight_bytes)))


def _fitting(weight_bytes: int) -> int:
    """How many workers fit into the memory; as many as there are CPUs if it is not known."""
    free = available_memory()
    return available_cpus() if free is None else max(1, free // (WORKER_BYTES + weight_bytes))


def _refuse_more(count: int, weight_bytes: int) -> None:
    """Refuse more workers on a CPU than it has cores, or than fit into the memory."""
    cores, room = available_cpus(), _fitting(weight_bytes)
    if count > min(cores, room):
        scarce = counted(cores, "core") if cores <= room else f"memory for {room:,} of them"
        raise UsageError(
            f"--workers {count}, but this process may use {scarce}; use --workers {min(cores, room)} or fewer"
        )


def _gpus(options: EmbedOptions) -> list[Gpu]:
    """List the GPUs that TensorFlow can use; it is asked only if there is one."""
    if parse_device(options.device)[0] == "cpu":
        return []
    gpus = visible_gpus()
    if not gpus:
        return []
    from protrna_cli.model import runtime

    return gpus[: len(runtime.gpu_names())]


CPU_TOKENS = 2048
"""Fewest tokens of a batch. On two threads neither 4,096 nor 8,192 are faster: four layers of the published
model run 1,468 tokens/s in float32 against 1,366 and 1,396, and 2,978 in bfloat16 against 2,942 and 3,055."""

TOKENS_A_THREAD = 1024
MOST_CPU_TOKENS = 16_384

GPU_TOKENS = 8192
"""Tokens of a batch on a GPU whose free memory is small or not known."""

MOST_GPU_TOKENS = 32_768

GPU_TOKEN_BYTES = 256 << 10
"""Memory of a token in a batch of the published model: 17 arrays of its width, and its attention scores if
its sequence has 510 residues, in float32; some 170 KiB, and half of that again for what runs beside it."""


def settle(options: EmbedOptions, outputs: Sequence[Path] = ()) -> EmbedOptions:
    """Replace `auto` by a value: the precision, and the token budget of a batch.

    outputs: the outputs of the run. If one is to be resumed, its values are taken.
    """
    if AUTO not in (options.precision, options.batch_tokens):
        return options
    earlier = next(filter(None, map(_key_of_earlier, outputs)), {}) if options.resume else {}
    if options.precision == AUTO:
        options = replace(options, precision=earlier.get("precision") or faster_precision(options))
    if options.batch_tokens == AUTO:
        options = replace(options, batch_tokens=earlier.get("batch_tokens") or _batch_tokens(options))
    return options


def batch_tokens_of(model: ProtRNA) -> int:
    """Token budget of a batch for a model that is loaded, the same as for a run of the command."""
    from protrna_cli.model import runtime

    return _gpu_tokens(visible_gpus()) if "GPU" in model.device else _cpu_tokens(runtime.threads())


def _cpu_tokens(threads: int) -> int:
    return min(max(CPU_TOKENS, TOKENS_A_THREAD * threads), MOST_CPU_TOKENS)


def _gpu_tokens(gpus: Sequence[Gpu]) -> int:
    """As many as fit into half of what is free on each GPU."""
    free = min((gpu.free or 0 for gpu in gpus), default=0)
    return max(GPU_TOKENS, min(free // 2 // GPU_TOKEN_BYTES, MOST_GPU_TOKENS))


def _batch_tokens(options: EmbedOptions) -> int:
    """Choose the token budget; TensorFlow, whose import takes seconds, is asked only if there is a GPU."""
    if parse_device(options.device)[0] != "cpu" and (gpus := visible_gpus()):
        from protrna_cli.model import runtime

        if runtime.configure(options.device, options.threads) != "cpu":
            return _gpu_tokens(gpus)
    return _cpu_tokens(threads_of_worker(options))


def _key_of_earlier(output: Path) -> dict[str, Any]:
    """Read the key of an unfinished run, or of a complete output; empty if there is neither."""
    with suppress(OSError, ValueError, IndexError):
        return _object(json.loads(journal_path(output).read_text("utf-8").splitlines()[0]))
    with suppress(OSError, ValueError):
        return _object(_object(json.loads(manifest_path(output).read_text("utf-8"))).get("key"))
    with suppress(ProtrnaError):
        return open_output(output).header.provenance
    return {}


def _object(value: Any) -> dict[str, Any]:
    """Take a JSON object; a damaged file, which is reported later, may hold anything."""
    return value if isinstance(value, dict) else {}
