"""What the system allows this process, read from files that stand in for those of the kernel."""

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from protrna_cli import libraries, machine
from protrna_cli.errors import SystemLimit, TensorFlowUnusable
from tests.conftest import SAMPLE

GIB = 1 << 30
EMBED = ["embed", str(SAMPLE), "-o", "out.npy", "--model", "demo", "-q"]


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `proc` and `cgroup` in place of those of the kernel, and no limits of Slurm."""
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    write(tmp_path / "proc/meminfo", "MemTotal: 99 kB\nMemAvailable: 33554432 kB\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def limit_v2(group: Path, limit: int | str, used: int, cache: int = 0) -> None:
    write(group / "memory.max", str(limit))
    write(group / "memory.current", str(used))
    write(group / "memory.stat", f"anon 5\ninactive_file {cache}\nactive_file 7")


def command(*words: str, first: str = "pass") -> subprocess.CompletedProcess[str]:
    """Run `protrna` in a process of its own, after these statements."""
    script = f"{first}\nfrom protrna_cli.cli.main import main\nmain()"
    return subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)


def test_memory_without_cgroups_is_what_the_kernel_has(system: Path) -> None:
    assert machine.available_memory() == 32 * GIB


@pytest.mark.parametrize("limited", ["", "job_7", "job_7/step_0", "job_7/step_0/task_0"])
def test_a_limit_of_the_own_cgroup_and_of_any_above_it_counts(system: Path, limited: str) -> None:
    write(system / "proc/self/cgroup", "0::/job_7/step_0/task_0")
    for group in ("", "job_7", "job_7/step_0", "job_7/step_0/task_0"):
        limit_v2(system / "cgroup" / group, "max", GIB)
    limit_v2(system / "cgroup/other", GIB, 0)
    limit_v2(system / "cgroup" / limited, 4 * GIB, 3 * GIB)
    write(system / "cgroup" / limited / "cpu.max", "50000 100000")
    assert machine.available_memory() == GIB
    assert machine.available_cpus() == 1


def test_the_smallest_rest_of_all_levels_is_taken(system: Path) -> None:
    write(system / "proc/self/cgroup", "0::/job/step")
    limit_v2(system / "cgroup/job/step", 8 * GIB, 2 * GIB)
    limit_v2(system / "cgroup/job", 10 * GIB, 9 * GIB)
    assert machine.available_memory() == GIB


def test_memory_that_holds_read_files_is_free(system: Path) -> None:
    limit_v2(system / "cgroup", 4 * GIB, 4 * GIB, cache=3 * GIB)
    assert machine.available_memory() == 3 * GIB


@pytest.mark.parametrize("path", ["/slurm/uid_1/job_7", "/docker/which_only_the_host_has", "/../outside"])
def test_limits_of_version_1_are_those_of_the_group_or_of_the_root_in_a_container(
    system: Path, path: str
) -> None:
    lines = [f"9:memory:{path}", f"4:cpu,cpuacct:{path}", "1:name=systemd:/", "0::/"]
    write(system / "proc/self/cgroup", "\n".join(lines))
    group = path.strip("/") if "slurm" in path else ""
    memory = system / "cgroup/memory"
    write(memory / "memory.limit_in_bytes", str((1 << 63) - 4096))
    write(memory / "memory.usage_in_bytes", "0")
    write(memory / "memory.stat", "cache 1")
    write(memory / group / "memory.limit_in_bytes", str(2 * GIB))
    write(memory / group / "memory.usage_in_bytes", str(GIB))
    write(memory / group / "memory.stat", f"total_inactive_file {GIB // 2}")
    for folder, quota in (("cgroup/cpu", -1), (f"cgroup/cpu/{group}", 100_000)):
        write(system / folder / "cpu.cfs_quota_us", str(quota))
        write(system / folder / "cpu.cfs_period_us", "100000")
    assert machine.available_memory() == GIB * 3 // 2
    assert machine.available_cpus() == 1


@pytest.mark.parametrize(
    ("usable", "cores"), [(range(8), 4), ([0, 4], 1), ([0, 1, 2, 3], 4), ([1, 2, 6], 2), ([9], None)]
)
def test_two_threads_of_a_core_are_one_core(
    system: Path, monkeypatch: pytest.MonkeyPatch, usable: Sequence[int], cores: int | None
) -> None:
    monkeypatch.setattr(machine, "CPUS", system / "cpu")
    for cpu in range(8):
        write(system / f"cpu/cpu{cpu}/topology/thread_siblings_list", f"{cpu % 4},{cpu % 4 + 4}")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(usable))
    assert machine.physical_cores() == cores
    assert machine.available_cpus() == len(usable)


def test_a_processor_without_avx_is_refused(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    machine.check_processor()  # no flags are known
    write(system / "proc/cpuinfo", "processor : 0\nflags : fpu sse4_2 avx2x\n")
    with pytest.raises(TensorFlowUnusable, match="no AVX instructions"):
        machine.check_processor()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    machine.check_processor()
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    write(system / "proc/cpuinfo", "processor : 0\nflags : fpu sse4_2 avx\n")
    machine.check_processor()


@pytest.mark.parametrize("words", [EMBED, ["doctor"]])
def test_no_command_imports_tensorflow_without_avx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "proc/cpuinfo", "flags : fpu sse4_2")
    first = (
        "import pathlib, platform; from protrna_cli import machine; machine.PROC = pathlib.Path('proc'); "
        "platform.machine = lambda: 'x86_64'"
    )
    done = command(*words, first=first)
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.startswith("protrna: error: this processor has no AVX")
    assert not list(tmp_path.glob("out*.partial"))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_low_limit_on_address_space_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.chdir(tmp_path)
    first = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({2 * GIB},) * 2)"
    done = command(*EMBED, "--workers", workers, first=first)
    assert done.returncode == 71
    [line] = done.stderr.splitlines()
    assert line.startswith("protrna: error: the limit on address space (ulimit -v, or h_vmem of the batch")
    assert "is 2.0 GiB, but 2." in line
    assert not list(tmp_path.glob("out*.partial"))


def test_weights_that_a_limit_on_address_space_leaves_no_room_for_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from protrna_cli.model.load import load_checkpoint

    path = tmp_path / "large.h5"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (900 * GIB, 900 * GIB))
    with pytest.raises(SystemLimit, match=r"is 900\.0 GiB, but 1,0\d\d\.\d GiB are needed"):
        load_checkpoint(path, "float32", "cpu", None)


def test_a_low_limit_on_threads_is_named_with_what_already_runs(
    system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 7)
    monkeypatch.setattr(machine, "available_cpus", lambda: 2)
    for name, user, threads in (("self", 7, 3), ("12", 7, 3), ("13", 7, 30), ("14", 8, 900)):
        write(system / f"proc/{name}/status", f"Name: a\nUid:\t{user}\t0\t0\t0\nThreads:\t{threads}")
    for limit in (resource.RLIM_INFINITY, 56):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, limit=limit: (limit, limit))
        machine.check_threads()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (55, 55))
    with pytest.raises(SystemLimit, match=r"ulimit -u\) is 55, but 56 are needed: .* 26, and 30 others of"):
        machine.check_threads()
    monkeypatch.setattr(os, "getuid", lambda: 0)
    machine.check_threads()


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (MemoryError(), SystemLimit, "TensorFlow cannot be imported (MemoryError): the memory is full"),
        (ImportError("libt.so: failed to map segment from shared object"), SystemLimit, "failed to map"),
        (RuntimeError("can't start new thread"), SystemLimit, "ulimit -u"),
        (
            ImportError("libt.so: undefined symbol: x\nmore"),
            TensorFlowUnusable,
            "(libt.so: undefined symbol: x)",
        ),
    ],
)
def test_an_import_that_fails_is_told_by_its_first_cause(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception], told: str
) -> None:
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setattr(libraries, "check_processor", lambda: None)
    with pytest.raises(kind) as raised, libraries.importing_tensorflow():
        try:
            raise error
        except Exception as first:
            raise ImportError("Traceback (most recent call last): ...") from first
    assert told in str(raised.value)


@pytest.mark.parametrize("smi", ["", "#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9"])
def test_the_driver_names_the_cards_where_nvidia_smi_does_not(
    system: Path, monkeypatch: pytest.MonkeyPatch, smi: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(system / "bin"))
    if smi:
        write(system / "bin/nvidia-smi", smi)
        (system / "bin/nvidia-smi").chmod(0o755)
    assert machine.gpu_cards() == []
    for slot in ("01", "c1"):
        card = "Model: \t\t NVIDIA A100-SXM4-80GB\nIRQ:   \t\t 170\nGPU UUID: \t GPU-1"
        write(system / f"proc/driver/nvidia/gpus/0000:{slot}:00.0/information", card)
    assert machine.gpu_cards() == ["NVIDIA A100-SXM4-80GB"] * 2


@pytest.mark.parametrize(
    ("visible", "hidden"),
    [("", True), ("-1", True), ("NoDevFiles", True), ("0", False), (" 1,0", False), ("GPU-1a", False)],
)
def test_a_job_without_a_card_hears_of_none(
    system: Path, monkeypatch: pytest.MonkeyPatch, visible: str, hidden: bool
) -> None:
    monkeypatch.setenv("PATH", str(system))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    write(system / "proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: NVIDIA A100")
    assert machine.gpu_cards() == ([] if hidden else ["NVIDIA A100"])


def test_the_memory_of_workers_counts() -> None:
    before = machine.resident_memory()
    script = "data = bytearray(200 << 20); print(len(data), flush=True); input()"
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == f"{200 << 20}\n"
        during = machine.resident_memory()
        worker.communicate("\n")
    assert before is not None
    assert during is not None
    assert during - before > 190 << 20
