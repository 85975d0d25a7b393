"""What a process may use, and machines on which TensorFlow would end without a word."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from protrna_cli import machine
from protrna_cli.errors import LimitTooLow, MachineUnusable
from protrna_cli.machine import available_cpus, available_memory, refuse_machine, resident_memory
from protrna_cli.model import load, runtime
from tests.conftest import SAMPLE
from tests.tools.runs import command


def test_a_processor_without_avx_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")
    refuse_machine()  # a system that does not tell
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags : fpu sse2 avx avx2\n")
    refuse_machine()
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags : fpu sse2\n")
    with pytest.raises(MachineUnusable, match="no AVX"):
        refuse_machine()
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    refuse_machine()


@pytest.mark.parametrize("mebibytes", [400, 1024, 2048])
def test_a_low_limit_of_address_space_is_one_line(tmp_path: Path, mebibytes: int) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (mebibytes << 20, mebibytes << 20))

    words = command("embed", SAMPLE, "-o", tmp_path / "out.npy", "--model", "demo", "-q")
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        words, preexec_fn=limit, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 71
    [line] = done.stderr.splitlines()
    assert "the limit of address space (ulimit -v, h_vmem of Grid Engine) is" in line
    assert list(tmp_path.iterdir()) == []


def test_a_low_limit_of_threads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {resource.RLIMIT_AS: resource.RLIM_INFINITY, resource.RLIMIT_NPROC: 24}
    monkeypatch.setattr(machine.resource, "getrlimit", lambda limit: (limits[limit],) * 2)
    monkeypatch.setattr(machine.os, "geteuid", lambda: 1000)
    with pytest.raises(LimitTooLow, match=r"\(ulimit -u\) is 24, but TensorFlow needs 64"):
        refuse_machine()
    monkeypatch.setattr(machine.os, "geteuid", lambda: 0)
    refuse_machine()


def test_a_gpu_that_cannot_be_used_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*words: Any) -> Any:
        raise runtime.tf.errors.InternalError(None, None, "CUDA_ERROR_INVALID_PTX: a PTX\nand more")

    monkeypatch.setattr(runtime, "configure", lambda *words: "gpu:0")
    monkeypatch.setattr(runtime, "tensorflow_name", lambda device: "/device:GPU:0")
    monkeypatch.setattr(runtime, "running_on", lambda name: runtime.nullcontext())
    monkeypatch.setattr(runtime, "gpu_names", lambda: ("NVIDIA B300",))
    monkeypatch.setattr(runtime, "placer", lambda precision: fail)
    with pytest.raises(MachineUnusable) as error:
        load.load_checkpoint(None, "float32", "auto", None)
    assert str(error.value) == (
        f"TensorFlow {runtime.tensorflow_version()} lists NVIDIA B300 but cannot use it "
        "(CUDA_ERROR_INVALID_PTX: a PTX); use --device cpu, or a TensorFlow made for it"
    )


LAY_OUT = """
import io, sys
from pathlib import Path
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from protrna_cli.model import mapped
make = mapped.placer
devices = set()

def noting(precision):
    place = make(precision)
    def placed(name, values):
        tensor = place(name, values)
        devices.add(tensor.device.rpartition("/")[2])
        return tensor
    return placed

mapped.placer = noting
with tf.device("/device:CPU:1"):
    mapped.lay_out(Path(sys.argv[1]), "float32", io.BytesIO())
print(devices)
"""


def test_weights_are_laid_out_on_the_cpu_whatever_the_default_device_is() -> None:
    from tests.conftest import TOY

    done = subprocess.run([sys.executable, "-c", LAY_OUT, TOY], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "{'device:CPU:0'}"


# Control groups.


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups of this process, in files: `root` and `own` (the list of them)."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "root")
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(64), raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    return tmp_path


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_every_group_of_version_2_limits(groups: Path) -> None:
    (groups / "own").write_text("0::/system.slice/job.scope/step\n")
    root = groups / "root"
    write(root, cpu__max="max 100000")
    write(root / "system.slice", cpu__max="400000 100000", memory__max="max", memory__current=0)
    write(
        root / "system.slice" / "job.scope",
        cpu__max="250000 100000",
        memory__max=3 << 20,
        memory__current=1 << 20,
    )
    write(root / "system.slice" / "job.scope" / "step", cpu__max="max 100000", memory__max=5 << 20)
    assert available_cpus() == 3
    assert available_memory() == 2 << 20


def test_groups_of_version_1_limit(groups: Path) -> None:
    (groups / "own").write_text("5:memory:/slurm/job_7\n4:cpu,cpuacct:/slurm/job_7\n1:name=systemd:/x\n")
    root = groups / "root"
    memory = {"memory__limit_in_bytes": 7 << 20, "memory__usage_in_bytes": 2 << 20}
    write(root / "memory" / "slurm" / "job_7", **memory)
    write(root / "memory", memory__limit_in_bytes=2**63 - 4096, memory__usage_in_bytes=1)
    write(root / "cpu,cpuacct" / "slurm", cpu__cfs_quota_us=200000, cpu__cfs_period_us=100000)
    write(root / "cpu,cpuacct" / "slurm" / "job_7", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    assert available_cpus() == 2
    assert available_memory() == 5 << 20


def test_in_a_container_the_root_is_the_own_group(groups: Path) -> None:
    (groups / "own").write_text("0::/../elsewhere\n")
    write(groups / "root", cpu__max="100000 100000", memory__max=4 << 20, memory__current=3 << 20)
    assert available_cpus() == 1
    assert available_memory() == 1 << 20


def test_the_memory_of_workers_counts() -> None:
    before = resident_memory()
    script = "data = bytearray(200 << 20); print(len(data), flush=True); input()"
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == f"{200 << 20}\n"
        during = resident_memory()
        worker.communicate("\n")
    assert before is not None
    assert during is not None
    assert during - before > 190 << 20
