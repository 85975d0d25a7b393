"""Shared by all tests: the golden files, small FASTA files, and the command line in this process."""

from __future__ import annotations

import fcntl
import itertools
import os
import pty
import shlex
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

# NumPy reads it once. Its threads spin while they wait for each other, which took ten times the time of small
# matrices where as many tests as CPUs run, and in the processes that they start.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import pytest

from protrna_cli.plan import pieces
from protrna_cli.weights import mapped
from protrna_cli.weights.checkpoint import Checkpoint

collect_ignore = [] if find_spec("griffe") else ["tools/site.py", "tools/release.py"]
"""They need the extra `site`."""

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
SAMPLE = ROOT / "sample_data" / "rna_families.fa"
TOY = GOLDEN / "toy.h5"
LIGHT = "from tests.tools.light import use; use()"
"""What a process does first so that it needs no TensorFlow."""

# A test may not fail because the machine is busy.
hypothesis.settings.register_profile(
    "protrna", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("protrna")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that take longest, so that no worker is left alone with one of them."""

    def seconds(item: pytest.Item) -> int:
        return max((mark.kwargs.get("seconds", 0) for mark in item.iter_markers("slow")), default=0)

    items.sort(key=seconds, reverse=True)


@dataclass(frozen=True)
class Outcome:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]

_T = TypeVar("_T")


def wait_until(
    happened: Callable[[], _T], process: subprocess.Popen[Any] | None = None, seconds: float = 300
) -> _T:
    """Wait until a condition is true, or this process has ended; returns the value of the condition."""
    deadline = time.monotonic() + seconds
    while not (found := happened()) and (process is None or process.poll() is None):
        assert time.monotonic() < deadline, f"waited for {seconds} seconds"
        time.sleep(0.01)
    return found


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield paths of new folders; to number another one, `mktemp` would list those of all earlier tests."""
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(i) for i in itertools.count())


@pytest.fixture(autouse=True)
def home(homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty folder of weights and no defaults, instead of those of the user who runs the tests."""
    folder = next(homes)
    folder.mkdir()
    monkeypatch.setenv("PROTRNA_HOME", str(folder))
    for name in ("MODEL", "DEVICE", "PRECISION"):
        monkeypatch.delenv(f"PROTRNA_{name}", raising=False)
    return folder


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait until written bytes are on the disk, which takes a tenth of the time of a test."""
    monkeypatch.setattr(os, "fsync", os.fstat)  # a closed descriptor stays an error


@pytest.fixture(autouse=True)
def small_models_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the toy checkpoint and make the demo model once in this process, not for each of a thousand runs.

    Each run gets a model of its own of the same weights. Tests of reading call `read_checkpoint`, or read
    another file.
    """
    load, size = Checkpoint.load, Checkpoint.size

    def loaded(checkpoint: Checkpoint, *settings: Any) -> Any:
        if checkpoint.path not in (TOY, None) or not mapped.SMALLEST:  # copies to map are tested
            return load(checkpoint, *settings)
        model = load_once(checkpoint.path, *settings[:3])
        return type(model)(model.size, model._weights, model.precision, model.device)

    monkeypatch.setattr(Checkpoint, "load", loaded)
    monkeypatch.setattr(Checkpoint, "size", lambda self: size_of_toy() if self.path == TOY else size(self))


@cache
def load_once(path: Path | None, precision: str, device: str, threads: int | None) -> Any:
    """Load a checkpoint."""
    from protrna_cli.model.load import load_checkpoint

    return load_checkpoint(path, precision, device, threads)


@cache
def size_of_toy() -> Any:
    """Read the size of the toy checkpoint."""
    from protrna_cli.model.checkpoint import read_size

    return read_size(TOY)[0]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `protrna` with these arguments in this process."""
    from protrna_cli.cli import main as cli

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        code = cli.run([str(word) for word in words])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests from downloading the published checkpoint (2.4 GiB) by accident."""
    monkeypatch.setenv("PROTRNA_OFFLINE", "1")


def install_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *words: object, module: str = "protrna_cli"
) -> None:
    """Put a `protrna` first in PATH that runs this module, and whose `embed` gets these extra arguments."""
    folder.mkdir()
    command = folder / "protrna"
    added = shlex.join(map(str, words))
    command.write_text(
        f'#!/bin/bash\n[[ $1 == embed ]] && set -- "$@" {added}\n'
        f'exec {shlex.quote(sys.executable)} -m {module} "$@"\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def fasta(tmp_path: Path) -> Callable[[str], Path]:
    """Write a FASTA file."""

    def write(text: str, name: str = "in.fa") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write an input of 84 valid records and 6 invalid ones; some are long, and one is repeated."""
    from tests.tools.kill import write_input

    path = tmp_path / "in.fa"
    write_input(path)
    return path


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut runs into many chunks, and commit after every batch."""
    from protrna_cli.run import loop

    monkeypatch.setattr(pieces, "CHUNK_RECORDS", 7)
    monkeypatch.setattr(pieces, "CHUNK_RESIDUES", 300)
    monkeypatch.setattr(loop, "COMMIT_SECONDS", 0.0)


@pytest.fixture
def small_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the speed of the machine with little work: what is measured then matters to no test."""
    from protrna_cli.model import trial

    monkeypatch.setattr(trial, "MATMUL", (64, 32, 64))
    monkeypatch.setattr(trial, "token_rate", partial(trial.token_rate, lengths=(6, 6)))


@pytest.fixture(scope="session")
def golden_records() -> list[tuple[str, str]]:
    """Id and letters of the golden records, read without the package."""
    records = (GOLDEN / "sequences.fa").read_text().split(">")[1:]
    return [(name, "".join(lines)) for name, *lines in (record.split("\n") for record in records)]


def on_a_terminal(*words: object, columns: int, first: str = "pass") -> tuple[int, str]:
    """Run `protrna` on a pseudo-terminal, after these statements; returns its exit code and its output."""
    parent_end, child_end = pty.openpty()
    fcntl.ioctl(child_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    script = f"{first}; from protrna_cli.cli.main import main; main()"
    command = [sys.executable, "-c", script, *map(str, words)]
    environment = {name: text for name, text in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(command, stderr=child_end, stdout=child_end, env=environment) as process:
        os.close(child_end)
        shown = b""
        try:
            while data := os.read(parent_end, 4096):
                shown += data
        except OSError:  # Linux reports the closed other end as an error
            pass
    os.close(parent_end)
    return process.returncode, shown.decode()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk here")
    yield disk
    # A process that another thread has just started may still have a file of it open.
    subprocess.run(["umount", "--lazy", disk], check=True)
