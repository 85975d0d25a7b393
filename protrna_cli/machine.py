"""CPUs, memory, limits and devices that this process has, found without TensorFlow."""

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
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from protrna_cli.errors import SystemLimit, TensorFlowUnusable, UsageError
from protrna_cli.text import counted, size_text

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
CPUS = Path("/sys/devices/system/cpu")

LOAD_BYTES = 1 << 30
"""Address space that TensorFlow takes besides the weights once it is imported: 0.8 GiB were measured."""

_PR_SET_PDEATHSIG = 1


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


def available_cpus() -> int:
    """Count the CPUs that this process may use.

    The smallest of the affinity mask, the CPU quotas of its cgroups and `SLURM_CPUS_PER_TASK`, at least 1.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *_cgroup_quotas(), *_slurm_cpus()]))


def physical_cores() -> int | None:
    """Count the cores whose CPUs this process may use, of which some have two threads.

    Linux counts each thread of a core as a CPU. None if the system does not tell which are of one core.
    """
    try:
        cpus = os.sched_getaffinity(0)
        return len({(CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text() for cpu in cpus})
    except (AttributeError, OSError):  # not Linux, or a system that hides them
        return None


def _cgroup_quotas() -> list[int]:
    """CPU quotas of the cgroups of this process, rounded up."""
    quotas = []
    for group in _cgroups("cpu"):
        with suppress(OSError, ValueError):  # another version, the root, or `max`: no limit
            quota, period = map(int, (group / "cpu.max").read_text().split())
            quotas.append(-(-quota // period))
        with suppress(OSError, ValueError):
            quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            if quota > 0:
                quotas.append(-(-quota // period))
    return quotas


def _cgroups(controller: str) -> Iterator[Path]:
    """List the folders that may limit this process, of both versions: its own cgroup and all above it.

    In a container the path of the group is often one that only the host has. Its limits are then those of
    the root, which is always among the folders.
    """
    own = {"": "/", controller: "/"}
    with suppress(OSError):
        for line in (PROC / "self/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            own.update((name, path) for name in names.split(",") if name in own and ".." not in path)
    mounts = {CGROUPS: "", CGROUPS / "unified": "", CGROUPS / controller: controller}
    for mount, name in mounts.items():
        group = PurePosixPath(own[name])
        yield from (mount / folder.relative_to("/") for folder in (group, *group.parents))


def _slurm_cpus() -> list[int]:
    value = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return [int(value)] if value.isdigit() else []


def _slurm_memory() -> list[int]:
    """Bytes of memory of a Slurm job on this machine: `SLURM_MEM_PER_NODE` or `_PER_CPU`, in MiB."""
    node, cpu = (os.environ.get(f"SLURM_MEM_PER_{unit}", "") for unit in ("NODE", "CPU"))
    if node.isdigit() and int(node):  # 0 is all of it
        return [int(node) << 20]
    cpus = os.environ.get("SLURM_CPUS_ON_NODE", "")
    return [int(cpu) * int(cpus) << 20] if cpu.isdigit() and cpus.isdigit() else []


def available_memory() -> int | None:
    """Bytes of memory that this process may still take; None if the system does not report it.

    The smallest of the kernel's `MemAvailable`, what is left of the limits of the cgroups, and what Slurm
    gives to a job on this machine.
    """
    limits = [*_slurm_memory(), *_cgroup_memory()]
    with suppress(OSError):
        limits += (kibibytes << 10 for kibibytes in _numbers(PROC / "meminfo", "MemAvailable"))
    return min(limits, default=None)


def _cgroup_memory() -> list[int]:
    """Bytes that are left in each cgroup of this process that has a limit."""
    left = []
    for group in _cgroups("memory"):
        for limit, used, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with suppress(OSError, ValueError):  # another version, the root, or `max`: no limit
                total, taken = (int((group / name).read_text()) for name in (limit, used))
                # The kernel drops these pages of files when memory is needed.
                left.append(max(0, total - taken + sum(_numbers(group / "memory.stat", cache))))
    return left


def _numbers(file: Path, name: str) -> list[int]:
    """Read the number behind a name in a file of the kernel: none or one."""
    return [int(found) for found in re.findall(rf"^{name}:?\s+(\d+)", file.read_text(), re.MULTILINE)]


def check_processor() -> None:
    """Refuse a processor without AVX, which TensorFlow's packages need: it would die without a word."""
    flags = cpu_flags()
    if platform.machine() == "x86_64" and flags and "avx" not in flags:
        raise TensorFlowUnusable(
            "this processor has no AVX instructions, without which TensorFlow cannot run; use another "
            "machine, or give a virtual machine the processor of its host (QEMU: -cpu host)"
        )


def check_address_space(more: int) -> None:
    """Refuse a limit on address space (`ulimit -v`) that does not leave so many bytes."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    needed = (_pages(0) or 0) + more
    if resource.RLIM_INFINITY != limit < needed:
        raise SystemLimit(
            f"{address_space_text(limit)}, but {size_text(needed)} are needed; raise it, or remove it with "
            "ulimit -v unlimited"
        )


def address_space_text(limit: int) -> str:
    """Name a limit on address space."""
    return f"the limit on address space (ulimit -v, or h_vmem of the batch system) is {size_text(limit)}"


def check_threads() -> None:
    """Refuse a limit on the user's processes and threads (`ulimit -u`) that TensorFlow would exceed.

    The kernel does not apply it to root. On two CPUs a run needs 26, and 6 more for each further CPU. To be
    called before NumPy is imported: where OpenBLAS, which is in it, cannot start its own threads, it sends
    this process the signal of Ctrl-C.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if limit == resource.RLIM_INFINITY or os.getuid() == 0:
        return
    threads = 14 + 6 * available_cpus()
    others = sum(map(_threads_of_user, PROC.glob("[0-9]*"))) - _threads_of_user(PROC / "self")
    if others + threads > limit:
        raise SystemLimit(
            f"the limit on processes and threads (ulimit -u) is {limit:,}, but {others + threads:,} are "
            f"needed: TensorFlow takes {threads}, and {counted(others, 'other')} of this user run; raise it, "
            "or end some of them"
        )


def _threads_of_user(process: Path) -> int:
    """Count the threads of a process; 0 if it is another user's, or has ended."""
    with suppress(OSError):
        found = re.findall(r"^(?:Uid|Threads):\s*(\d+)", (process / "status").read_text(), re.MULTILINE)
        if len(found) == 2 and int(found[0]) == os.getuid():
            return int(found[1])
    return 0


class Gpu(NamedTuple):
    """A GPU by its name in `CUDA_VISIBLE_DEVICES`, and its free bytes of memory, if they are known."""

    name: str
    free: int | None


def visible_gpus() -> list[Gpu]:
    """List the NVIDIA GPUs that this process may use: those of `nvidia-smi`, or of `CUDA_VISIBLE_DEVICES`.

    Whether TensorFlow can use them is another question; none if there is no `nvidia-smi`.
    """
    told = _ask_nvidia_smi("uuid,memory.free")
    if told is None:
        return []
    found = re.findall(r"^(\S+), (?:(\d+)|.*)$", told, re.MULTILINE)
    gpus = [Gpu(name, int(mebibytes) << 20 if mebibytes else None) for name, mebibytes in found]
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return gpus
    # Other entries, as -1 or the empty string, name none.
    names = (name.strip() for name in allowed.split(","))
    return [_gpu_named(name, gpus) for name in names if re.fullmatch(r"\d+|(GPU|MIG)-\S+", name)]


def gpu_cards() -> list[str]:
    """Name the NVIDIA GPUs of this machine, unless they are hidden from this process.

    They are hidden if `CUDA_VISIBLE_DEVICES` names none first: it is empty, -1, or Slurm's `NoDevFiles`.
    """
    if not re.match(r"\s*(\d|(GPU|MIG)-)", os.environ.get("CUDA_VISIBLE_DEVICES", "0")):
        return []
    told = _ask_nvidia_smi("name")
    if told is not None:
        return [name.strip() for name in told.splitlines() if name.strip()]
    found = (PROC / "driver/nvidia/gpus").glob("*/information")
    texts = "".join(file.read_text(errors="replace") for file in found)
    return re.findall(r"^Model:\s*(.+?)\s*$", texts, re.MULTILINE)


def _ask_nvidia_smi(columns: str) -> str | None:
    """Ask for columns of its table: a line for each GPU; None where it is missing or fails."""
    query = ["nvidia-smi", f"--query-gpu={columns}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _gpu_named(name: str, gpus: Sequence[Gpu]) -> Gpu:
    """Find a GPU by its number or the start of its UUID; a part of one (MIG) has memory that is not known."""
    for number, gpu in enumerate(gpus):
        if name == str(number) or (name.startswith("GPU-") and gpu.name.startswith(name)):
            return Gpu(name, gpu.free)
    return Gpu(name, None)


def cpu_flags() -> frozenset[str]:
    """CPU features that Linux reports, such as `avx512f` or `amx_bf16`; empty on other systems."""
    try:
        lines = (PROC / "cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":")[1].split() for line in lines if line.startswith("flags")), ()))


def resident_memory() -> int | None:
    """Bytes of memory that this process and its workers use now; None if the system does not report it.

    Of workers only what is their own: the pages of mapped weights are shared.
    """
    own = _pages(1)
    return None if own is None else own + sum(map(_own_memory, _children()))


def _children() -> list[str]:
    """Ids of the processes that threads of this one started."""
    found: list[str] = []
    for thread in (PROC / "self/task").iterdir():
        with suppress(OSError):
            found += (thread / "children").read_text().split()
    return found


def _own_memory(process: str) -> int:
    """Bytes of memory of a process that no file backs; 0 for one that has ended."""
    with suppress(OSError):
        return sum(_numbers(PROC / process / "status", "RssAnon")) << 10
    return 0


def _pages(column: int) -> int | None:
    """Bytes of this process in a column of `statm`: its address space, or what of it is in memory."""
    try:
        pages = int((PROC / "self/statm").read_text().split()[column])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def parse_device(device: str) -> tuple[str, int]:
    """Split `auto`, `cpu`, `gpu` or `gpu:N` into its kind and its number.

    >>> parse_device("gpu:1")
    ('gpu', 1)
    """
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|gpu(:\d+)?", device):
        raise UsageError(f"{device!r} is not a device; --device takes auto, cpu, gpu or gpu:N")
    kind, _, number = device.partition(":")
    return kind, int(number or 0)
