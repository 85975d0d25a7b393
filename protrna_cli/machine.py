"""CPUs, memory and devices that this process may use, found without TensorFlow."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from protrna_cli.errors import LimitTooLow, MachineUnusable, UsageError
from protrna_cli.text import size_text

_owned = False

_PR_SET_PDEATHSIG = 1

CPU_INFO = Path("/proc/cpuinfo")


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


def end_with(parent: int) -> None:
    """Have this process end with the one that started it, however and whenever that ends.

    On Linux the kernel does it (prctl, PR_SET_PDEATHSIG); elsewhere a thread looks once a second.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


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


CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def _cgroups(controller: str) -> Iterator[Path]:
    """Yield the folders of the control groups that limit this process, its own first and the root last.

    Version 2 has one tree, version 1 one for each controller. In a container the path of the own group may
    not be there; the root, which is then the container's group, always is.
    """
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:
        lines = []
    for line in ["0::/", *lines]:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUPS / controllers if controllers else CGROUPS
        group = root / path.lstrip("/")
        yield group
        while group != root and root in group.parents:
            group = group.parent
            yield group


def _cgroup_quota() -> int | None:
    """Smallest CPU quota of the control groups, rounded up; None if there is no limit."""
    found = []
    for group in _cgroups("cpu"):
        with suppress(OSError, ValueError):
            quota, period = (group / "cpu.max").read_text().split()
            if quota != "max":
                found.append(-(-int(quota) // int(period)))
        with suppress(OSError, ValueError):  # version 1
            quota_us = int((group / "cpu.cfs_quota_us").read_text())
            if quota_us > 0:
                found.append(-(-quota_us // int((group / "cpu.cfs_period_us").read_text())))
    return min(found, default=None)


def _cgroup_memory() -> Iterator[int]:
    """Yield the bytes that are left of the limit of each control group."""
    for group in _cgroups("memory"):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            with suppress(OSError, ValueError):
                yield int((group / limit).read_text()) - int((group / used).read_text())


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

    The smallest of the kernel's `MemAvailable`, what is left of the limits of the control groups, and what
    Slurm gives to a job on this machine.
    """
    limits = _slurm_memory()
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
    except OSError:
        pass
    limits += _cgroup_memory()
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


def gpu_cards() -> list[str]:
    """Name the NVIDIA GPUs of this machine, unless they are hidden from this process."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return []
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
        return [name.strip() for name in told.splitlines() if name.strip()]
    except (OSError, subprocess.SubprocessError):
        found = Path("/proc/driver/nvidia/gpus").glob("*/information")
        texts = "".join(file.read_text(errors="replace") for file in found)
        return re.findall(r"^Model:\s*(.+?)\s*$", texts, re.MULTILINE)


def _gpu_named(name: str, gpus: Sequence[Gpu]) -> Gpu:
    """Find a GPU by its number or the start of its UUID; a part of one (MIG) has memory that is not known."""
    for number, gpu in enumerate(gpus):
        if name == str(number) or (name.startswith("GPU-") and gpu.name.startswith(name)):
            return Gpu(name, gpu.free)
    return Gpu(name, None)


LEAST_ADDRESSES = 3 << 30
"""Bytes of address space for TensorFlow with the demo model: 2.5 GiB abort, 3 GiB are enough on two cores."""

LEAST_THREADS = 64
"""Processes and threads of a user with which TensorFlow starts: it needs some 30 on two cores."""


def refuse_machine() -> None:
    """Refuse a machine on which TensorFlow would end the process without a word; called before its import.

    Raises
    ------
    MachineUnusable
        The processor has no AVX.
    LimitTooLow
        The limit of address space, or that of threads, is too low.
    """
    if platform.machine() == "x86_64" and (flags := cpu_flags()) and "avx" not in flags:
        raise MachineUnusable(
            "this processor has no AVX, without which TensorFlow does not run; use another machine"
        )
    addresses, threads = (
        resource.getrlimit(limit)[0] for limit in (resource.RLIMIT_AS, resource.RLIMIT_NPROC)
    )
    if 0 <= addresses < LEAST_ADDRESSES:
        raise LimitTooLow(
            f"the limit of address space (ulimit -v, h_vmem of Grid Engine) is {size_text(addresses)}, but "
            f"TensorFlow needs {size_text(LEAST_ADDRESSES)} and the model its size; ask for more"
        )
    if 0 <= threads < LEAST_THREADS and os.geteuid() != 0:  # root is not held to it
        raise LimitTooLow(
            f"the limit of processes and threads (ulimit -u) is {threads}, but TensorFlow needs "
            f"{LEAST_THREADS}; ask for more"
        )


def cpu_flags() -> frozenset[str]:
    """CPU features that Linux reports, such as `avx512f` or `amx_bf16`; empty on other systems."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":")[1].split() for line in lines if line.startswith("flags")), ()))


def resident_memory() -> int | None:
    """Bytes of memory that this process and its workers use now; None if the system does not report it.

    Of workers only what is their own: the pages of mapped weights are shared.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(map(_own_memory, _children()))


def _children() -> list[str]:
    """Ids of the processes that threads of this one started."""
    found: list[str] = []
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            found += (thread / "children").read_text().split()
    return found


def _own_memory(process: str) -> int:
    """Bytes of memory of a process that no file backs; 0 for one that has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) << 10
    return 0


def parse_device(device: str) -> tuple[str, int]:
    """Split `auto`, `cpu`, `gpu` or `gpu:N` into its kind and its number.

    >>> parse_device("gpu:1")
    ('gpu', 1)
    """
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|gpu(:\d+)?", device):
        raise UsageError(f"{device!r} is not a device; --device takes auto, cpu, gpu or gpu:N")
    kind, _, number = device.partition(":")
    return kind, int(number or 0)
