"""CPUs, memory and devices that this process may use, found without TensorFlow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from protrna_cli.errors import UsageError

_owned = False


def own_process() -> None:
    """Declare that this process runs nothing but protrna: libraries may be set up for all of it.

    The command line and the workers of a cluster declare it. In somebody's notebook or program, TensorFlow's
    settings are not ours to change.
    """
    global _owned
    _owned = True
    # TensorFlow imports Keras, which we do not use. It would keep settings in the user's home folder, or in a
    # folder named `~` where there is none.
    os.environ.setdefault("KERAS_HOME", os.devnull)


def without_keras() -> None:
    """Have this process import TensorFlow without Keras, which it would import although we do not use it.

    Keras imports scikit-learn, SciPy and matplotlib where they are installed, and then takes half of the
    time of TensorFlow's import. For processes in which nobody else's code runs.
    """
    modules: dict[str, Any] = sys.modules
    for name in ("keras", "tf_keras"):
        modules.setdefault(name, None)


def is_own_process() -> bool:
    """Whether `own_process` was called."""
    return _owned


def available_cpus() -> int:
    """Count the CPUs that this process may use.

    The smallest of the affinity mask, the cgroup's CPU quota and `SLURM_CPUS_PER_TASK`, but at least 1.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [affinity, _cgroup_quota(), _slurm_cpus()]
    return max(1, min(limit for limit in limits if limit is not None))


def _cgroup_quota() -> int | None:
    """CPU quota of the cgroup, version 2 (`max` or `quota period`), rounded up; None if there is no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else -(-int(quota) // int(period))


def _slurm_cpus() -> int | None:
    value = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return int(value) if value.isdigit() else None


def _slurm_memory() -> list[int]:
    """Bytes of memory of a Slurm job on this machine: `SLURM_MEM_PER_NODE` or `_PER_CPU`, in MiB."""
    node, cpu = (os.environ.get(f"SLURM_MEM_PER_{unit}", "") for unit in ("NODE", "CPU"))
    if node.isdigit() and int(node):  # 0 is all of it
        return [int(node) << 20]
    cpus = os.environ.get("SLURM_CPUS_ON_NODE", "")
    return [int(cpu) * int(cpus) << 20] if cpu.isdigit() and cpus.isdigit() else []


def available_memory() -> int | None:
    """Bytes of memory that this process may still take; None if the system does not report it.

    The smallest of the kernel's `MemAvailable`, what is left of the limit of the cgroup (version 2), and what
    Slurm gives to a job on this machine.
    """
    limits = _slurm_memory()
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
    except OSError:
        pass
    try:
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            limits.append(int(limit) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return min(limits, default=None)


class Gpu(NamedTuple):
    """A GPU by its name in `CUDA_VISIBLE_DEVICES`, and its free bytes of memory, if they are known."""

    name: str
    free: int | None


def visible_gpus() -> list[Gpu]:
    """List the NVIDIA GPUs that this process may use: those of `nvidia-smi`, or of `CUDA_VISIBLE_DEVICES`.

    Whether TensorFlow can use them is another question; none if there is no `nvidia-smi`.
    """
    query = ["nvidia-smi", "--query-gpu=uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    found = re.findall(r"^(\S+), (?:(\d+)|.*)$", lines, re.MULTILINE)
    gpus = [Gpu(name, int(mebibytes) << 20 if mebibytes else None) for name, mebibytes in found]
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return gpus
    # Other entries, as -1 or the empty string, name none.
    names = (name.strip() for name in allowed.split(","))
    return [_gpu_named(name, gpus) for name in names if re.fullmatch(r"\d+|(GPU|MIG)-\S+", name)]


def _gpu_named(name: str, gpus: Sequence[Gpu]) -> Gpu:
    """Find a GPU by its number or the start of its UUID; a part of one (MIG) has memory that is not known."""
    for number, gpu in enumerate(gpus):
        if name == str(number) or (name.startswith("GPU-") and gpu.name.startswith(name)):
            return Gpu(name, gpu.free)
    return Gpu(name, None)


def cpu_flags() -> frozenset[str]:
    """CPU features that Linux reports, such as `avx512f` or `amx_bf16`; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":")[1].split() for line in lines if line.startswith("flags")), ()))


def resident_memory() -> int | None:
    """Bytes of memory that this process uses now; None if the system does not report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def parse_device(device: str) -> tuple[str, int]:
    """Split `auto`, `cpu`, `gpu` or `gpu:N` into its kind and its number.

    >>> parse_device("gpu:1")
    ('gpu', 1)

    Raises
    ------
    UsageError
        `device` has another form.
    """
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|gpu(:\d+)?", device):
        raise UsageError(f"{device!r} is not a device; --device takes auto, cpu, gpu or gpu:N")
    kind, _, number = device.partition(":")
    return kind, int(number or 0)
