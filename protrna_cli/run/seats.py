"""How many processes a run gets, and what each of them gets of the machine."""

from __future__ import annotations

import os
from typing import NamedTuple

from protrna_cli.errors import UsageError
from protrna_cli.machine import (
    Gpu,
    available_cpus,
    available_memory,
    gpu_cards,
    parse_device,
    visible_gpus,
)
from protrna_cli.plan.values import AUTO
from protrna_cli.run.options import EmbedOptions
from protrna_cli.text import counted

WORKER_BYTES = 1 << 30
"""Memory of a worker on a CPU besides the weights: 0.57 GiB were measured with the published model."""

BATCHES_A_WORKER = 4
"""Fewest batches for which starting another process is worth it."""


class Seat(NamedTuple):
    """What one process gets of the machine.

    Attributes
    ----------
    device, threads
        As in `load_model`.
    gpu
        The GPU that it sees, by its name in `CUDA_VISIBLE_DEVICES`; None for all that there are.
    """

    device: str
    threads: int | None
    gpu: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of the process."""
        return {**os.environ, "CUDA_VISIBLE_DEVICES": self.gpu} if self.gpu else dict(os.environ)


def choose_seats(options: EmbedOptions, tokens: int, weight_bytes: int) -> list[Seat]:
    """Choose what each process of a run gets.

    On a CPU `auto` gives each process one thread. Two cores get one process, which runs two batches at once
    and so is as fast as two of one thread (published model, a CPU with AMX).

    Parameters
    ----------
    tokens
        About how many tokens will run.
    weight_bytes
        Memory for weights that each process needs for itself; 0 if they are mapped.

    Returns
    -------
    list
        One for each process. One seat is the whole machine, for a run without workers.
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
    cores, free = available_cpus() // threads_of_worker(options), available_memory()
    return max(1, cores if free is None else min(cores, free // (WORKER_BYTES + weight_bytes)))


def _refuse_more(count: int, weight_bytes: int) -> None:
    """Refuse more workers on a CPU than it has cores, or than fit into the memory."""
    cores, free = available_cpus(), available_memory()
    room = cores if free is None else max(1, free // (WORKER_BYTES + weight_bytes))
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
