"""Check this machine: what TensorFlow sees, how fast it is, and whether the numbers are right."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from typing import Any

from protrna_cli.machine import available_cpus, available_memory, cpu_flags, physical_cores
from protrna_cli.run import auto
from protrna_cli.run.options import EmbedOptions
from protrna_cli.run.run import rate_key
from protrna_cli.text import aligned, counted, size_text, version
from protrna_cli.weights.checkpoint import (
    DEMO,
    PUBLISHED,
    PUBLISHED_FILE,
    Checkpoint,
    locate,
    weights_folder_if_any,
)

RELEVANT_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Instruction sets that decide how fast matrix multiplication is."""

TOLERANCE = 1e-4
"""Largest allowed distance from float64; float32 stays well within it on any device."""


@dataclass(frozen=True)
class Diagnosis:
    """What `examine` found."""

    # Versions of protrna, Python and TensorFlow; operating system and number of CPUs, and of their cores if
    # these have more than one thread each.
    version: str
    python: str
    tensorflow: str
    system: str
    # What this process may use; `device` is the one that it uses, `memory_bytes` is the free memory.
    instruction_sets: tuple[str, ...]
    gpus: tuple[str, ...]
    # Which GPUs the machine has that TensorFlow does not see, and what to do; None without any.
    unused_gpus: str | None
    device: str
    threads: int
    memory_bytes: int | None
    # Where the published weights are kept (None for a user without a home folder), and whether they are
    # there.
    weights_path: str | None
    weights_there: bool
    matmul_flops: dict[str, float]  # operations per second of a plain matrix multiplication, by precision
    # The model that was tested: the requested one, or the demo model if the published weights are missing.
    model: str
    # Its speed, and the share of `matmul_flops` that it reaches, by precision.
    tokens_per_second: dict[str, float]
    share_of_matmul: dict[str, float]
    # Largest distance from values computed in float64, and of a row in a batch from the same row run alone.
    reference_error: float
    batch_error: float

    @property
    def is_sound(self) -> bool:
        """Whether the numbers are right."""
        return max(self.reference_error, self.batch_error) <= TOLERANCE

    def json(self) -> str:
        return json.dumps({**asdict(self), "is_sound": self.is_sound})

    def text(self) -> str:
        there = "there" if self.weights_there else "missing; run protrna weights fetch"
        lines = {
            "protrna": f"{self.version}, Python {self.python}, TensorFlow {self.tensorflow}",
            "system": self.system,
            "instruction sets": ", ".join(self.instruction_sets) or "none that matter here",
            "GPUs": ", ".join(self.gpus) or self.unused_gpus or "none",
            "device": f"{self.device}, {self.threads} CPU threads",
            "free memory": size_text(self.memory_bytes) if self.memory_bytes is not None else "unknown",
            "published weights": f"{self.weights_path} ({there})"
            if self.weights_path
            else "no folder for them; set PROTRNA_HOME",
            "numbers": f"within {self.reference_error:.0e} of float64, "
            f"{self.batch_error:.0e} between batches: "
            f"{'right' if self.is_sound else 'WRONG'}",
        }
        for precision, flops in self.matmul_flops.items():
            lines[f"{precision} matmul"] = f"{flops / 1e9:,.0f} GFLOP/s"
            lines[f"{precision} model"] = (
                f"{self.tokens_per_second[precision]:,.0f} tokens/s of {self.model}, "
                f"{self.share_of_matmul[precision]:.0%} of the matmul rate"
            )
        return aligned(lines)


def examine(
    model: str = PUBLISHED,
    weights_dir: str | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> Diagnosis:
    """Check this machine; takes a few seconds, or a minute with the published weights.

    model, weights_dir: the model to test, as in `EmbedOptions`. Nothing is downloaded; the demo model is
        tested if the published weights are missing.
    device, threads: as in `load_model`.
    """
    from protrna_cli.model import runtime, trial

    EmbedOptions(model=model, weights_dir=weights_dir, device=device, threads=threads)  # checks them
    asked, device = device, runtime.configure(device, threads)
    folder = weights_folder_if_any(weights_dir)
    published = Checkpoint(folder / PUBLISHED_FILE) if folder else None
    if model == PUBLISHED and not (published and published.is_there):
        model = DEMO
    checkpoint = locate(model, weights_dir)
    demo = locate(DEMO).load("float32", device, threads)
    speed: dict[str, dict[str, Any]] = {"matmul": {}, "tokens": {}, "share": {}}
    for precision in ("float32", "bfloat16"):
        speed["matmul"][precision] = flops = trial.matmul_rate(precision)
        tested = checkpoint.load(precision, device, threads)
        speed["tokens"][precision] = rate = trial.token_rate(tested)
        speed["share"][precision] = rate * tested.size.operations / flops
        options = EmbedOptions(device=asked, threads=threads, precision=precision)
        key = auto.of_doctor(rate_key(tested.size, options))
        auto.remember(auto.rates_file(), key, rate * tested.size.operations)
        del tested  # free its memory before the next model is loaded
    return Diagnosis(
        version=version(),
        python=platform.python_version(),
        tensorflow=runtime.tensorflow_version(),
        system=f"{platform.platform()}, {_cpus_text(available_cpus(), physical_cores())}",
        instruction_sets=tuple(flag for flag in RELEVANT_FLAGS if flag in cpu_flags()),
        gpus=runtime.gpu_names(),
        unused_gpus=runtime.unused_gpus(),
        device=device,
        threads=threads or available_cpus(),
        memory_bytes=available_memory(),
        weights_path=str(published.path) if published else None,
        weights_there=bool(published and published.is_there),
        matmul_flops=speed["matmul"],
        model=model,
        tokens_per_second=speed["tokens"],
        share_of_matmul=speed["share"],
        reference_error=trial.reference_error(demo),
        batch_error=trial.batch_error(demo),
    )


def _cpus_text(cpus: int, cores: int | None) -> str:
    """Count the CPUs, and their cores where these are fewer: some may then do with fewer threads."""
    return f"{counted(cpus, 'CPU')} on {counted(cores, 'core')}" if cores and cores < cpus else f"{cpus} CPUs"
