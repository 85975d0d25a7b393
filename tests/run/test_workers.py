"""Runs in several processes: the same rows, stops and resumes, and no work lost if a process dies."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protrna_cli import EmbedOptions, embed_fasta, read_embeddings
from protrna_cli.api import files
from protrna_cli.errors import OutOfMemory, Stopped, UsageError, WeightsError, WorkersLost
from protrna_cli.machine import Gpu, available_memory
from protrna_cli.model import runtime
from protrna_cli.model.alphabet import Alphabet
from protrna_cli.model.transformer import ProtRNA
from protrna_cli.output.files import partial_path
from protrna_cli.run import auto, workers
from protrna_cli.run.auto import Seat, choose_seats, settle
from protrna_cli.run.verify import find_flaws
from protrna_cli.run.workers import WIDEST, InProcess, Workers
from protrna_cli.weights.checkpoint import Checkpoint, locate
from tests.conftest import ROOT, SAMPLE, TOY, Run, wait_until
from tests.tools.cases import slow_except
from tests.tools.faulty import FaultyCheckpoint
from tests.tools.kill import KINDS, assert_equal, embed
from tests.tools.runs import OPTIONS, Notes, StopAfter, command

TWO = replace(OPTIONS, workers=2)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("options", "at_once"),
    slow_except(
        [(KINDS[1], 2), (KINDS[2], 3), (KINDS[13], 100)],
        product([KINDS[1], KINDS[2], KINDS[13]], [2, 3, 100]),
    ),
    ids=lambda each: str(each.pool if isinstance(each, EmbedOptions) else each),
)
def test_batches_that_run_at_once_give_the_same_bytes(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, options: EmbedOptions, at_once: int
) -> None:
    """Across chunks, with copies of earlier chunks, stopped anywhere, and resumed one by one."""
    alone, target = tmp_path / "alone", tmp_path / "stopped"
    monkeypatch.setattr(ProtRNA, "at_once", 1)
    embed(source, alone, replace(options, resume=False))
    stops = 0
    for checks in (5, 9, 14, 7, 30, 10_000):
        with monkeypatch.context() as patch:
            if checks != 7:
                patch.setattr(ProtRNA, "at_once", at_once)
            try:
                embed(source, target, options, stop=StopAfter(checks))
            except Stopped:
                stops += 1
    assert stops >= 3
    assert_equal(target, alone, options)


class SlowModel:
    """Runs until it is told to end, and then says in which thread."""

    alphabet = Alphabet()
    at_once = 2

    def __init__(self) -> None:
        self.running = threading.Semaphore(0)
        self.go_on = threading.Event()

    def _embed_batch(self, *batch: Any, check: Callable[[], None]) -> str:
        self.running.release()
        while not self.go_on.wait(0.01):
            check()
        return threading.current_thread().name


def submitted(embedder: InProcess, *widths: int) -> list[Any]:
    return [embedder.submit(np.zeros((1, width), np.int32), np.zeros((1, width)), [3]) for width in widths]


def test_two_batches_run_at_once_and_a_wide_one_when_it_is_waited_for() -> None:
    model: Any = SlowModel()
    with InProcess(model) as embedder:
        assert embedder.ahead == 2
        first, second, wide = submitted(embedder, 9, WIDEST, WIDEST + 1)
        for _ in range(2):
            assert model.running.acquire(timeout=300)
        assert not model.running.acquire(timeout=0.1)
        model.go_on.set()
        assert {first(), second()} == {"protrna_0", "protrna_1"}
        assert wide() == "MainThread"


def test_batches_that_nobody_waits_for_are_ended() -> None:
    model: Any = SlowModel()
    with pytest.raises(KeyboardInterrupt), InProcess(model) as embedder:
        waiting = submitted(embedder, 9, 9, 9)
        for _ in range(2):
            assert model.running.acquire(timeout=300)
        raise KeyboardInterrupt
    for each in waiting:
        with pytest.raises(CancelledError):
            each()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("many") / "in.fa"
    rng = np.random.default_rng(1)
    path.write_text("".join(f">r{i}\n{''.join(rng.choice(list('ACGU'), 200))}\n" for i in range(100)))
    return path


def children(pid: int) -> list[int]:
    """Process ids of the workers of a process."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            words = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and b"protrna_cli.run.workers" in words:
            found.append(int(status.parent.name))
    return found


def wait_until_gone(pids: Iterable[int | str]) -> None:
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), seconds=60)


def computing(target: Path) -> bool:
    """Whether the first batches are done."""
    vectors = partial_path(target) / "vectors.npy"
    return vectors.exists() and vectors.stat().st_size > 1000


@pytest.mark.slow(seconds=15)
def test_ctrl_c_with_workers_is_resumed_without(tmp_path: Path, many: Path, run: Run) -> None:
    """As in a terminal: SIGINT goes to the whole group of processes."""
    target, words = tmp_path / "out.parquet", ["embed", many, "--model", "demo"]
    started = [*words, "-o", target, "--workers", "2", "--batch-tokens", "1024"]
    with subprocess.Popen(
        command(*started), stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    ) as process:
        wait_until(lambda: computing(target), process)
        started_by_it = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=300)
    assert (process.returncode, len(started_by_it)) == (130, 2), err
    assert "records are saved; continue with: protrna embed" in err
    assert not [pid for pid in started_by_it if Path(f"/proc/{pid}").exists()]
    outcome = run(*words, "-o", target, "--resume")
    assert (outcome.code, "resumed" in outcome.err) == (0, True)
    assert run(*words, "-o", tmp_path / "alone.parquet", "--batch-tokens", 1024).code == 0
    resumed, alone = (read_embeddings(tmp_path / name) for name in ("out.parquet", "alone.parquet"))
    assert resumed.ids == alone.ids
    np.testing.assert_allclose(resumed.vectors, alone.vectors, rtol=0, atol=1e-6)


@pytest.mark.slow(seconds=15)
def test_a_worker_that_is_killed_is_replaced(tmp_path: Path, many: Path) -> None:
    """The run goes on, and says nothing of it; when the run itself is killed its workers end too."""
    out, words = (
        tmp_path / "out.npy",
        ["embed", many, "--model", "demo", "--workers", 2, "--batch-tokens", 512],
    )
    with subprocess.Popen(command(*words, "-o", out), stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        wait_until(lambda: computing(out), process)
        first = children(process.pid)
        os.kill(first[0], signal.SIGKILL)
        wait_until(lambda: len(set(children(process.pid)) - set(first)) == 1, process)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    vectors = np.load(out)
    assert len(vectors) == 100
    assert np.isfinite(vectors).all()
    assert np.abs(vectors).max(axis=1).min() > 0
    killed = tmp_path / "killed.npy"
    with subprocess.Popen(
        command(*words, "-o", killed), stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    ) as process:
        wait_until(lambda: computing(killed), process)
        started_by_it = children(process.pid)
        process.kill()
    assert len(started_by_it) == 2
    wait_until_gone(started_by_it)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that gives runs a faulty checkpoint."""

    def use(**faults: Any) -> None:
        monkeypatch.setattr(files, "locate", lambda *_: FaultyCheckpoint(**faults))

    return use


@pytest.mark.parametrize("model", ["reference", pytest.param("TensorFlow", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("out.npy", {}),
        ("out.parquet", {"per_token": True}),
        ("out.h5", {"h5_layout": "packed", "per_token_output": "residues.h5"}),
    ],
)
def test_the_rows_are_those_of_one_process(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    faulty: Any,
    model: str,
    name: str,
    changes: dict[str, Any],
) -> None:
    """The workers have the model of the one process, or the reference model, which starts at once."""
    for folder, options in (("one", OPTIONS), ("two", TWO)):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        if folder == "two" and model == "reference":
            faulty()
        embed_fasta(source, name, replace(options, format=None, **changes))
    for path in map(Path, filter(None, [name, changes.get("per_token_output")])):
        found, expected = (read_embeddings(tmp_path / count / path) for count in ("two", "one"))
        assert [row.md5 for row in found] == [row.md5 for row in expected]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(
                one.vectors, other.vectors, rtol=0, atol=1e-5 if model == "reference" else 1e-6
            )


def test_workers_that_keep_dying_end_the_run_with_its_work_saved(
    tmp_path: Path, source: Path, faulty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "MAX_DEATHS", 2)
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    faulty(deaths=deaths, n_deaths=100)
    with pytest.raises(
        WorkersLost, match=r"\d workers died on the same batch, the last one with exit code -9"
    ):
        embed_fasta(source, tmp_path / "out.npy", TWO)
    assert 3 <= len(list(deaths.iterdir())) <= 8
    for each in list(deaths.iterdir())[1:]:
        each.unlink()
    faulty(deaths=deaths, n_deaths=2)  # one more death, and all goes well
    assert embed_fasta(source, tmp_path / "out.npy", replace(TWO, resume=True)).n_records > 0


def test_where_workers_die_again_and_again_the_run_goes_on_with_fewer(
    tmp_path: Path, source: Path, faulty: Any
) -> None:
    """As where the kernel kills them for want of memory, which is enough for one."""
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    faulty(deaths=deaths, n_deaths=workers.MAX_DEATHS + 1)
    notes = Notes()
    assert embed_fasta(source, tmp_path / "out.npy", TWO, notes).n_records == 84
    assert len(list(deaths.iterdir())) == workers.MAX_DEATHS + 1
    assert [note for note in notes.notes if "workers died again and again" in note] == [
        "workers died again and again (out of memory?); going on with fewer, which is slower; next time use "
        "fewer --workers"
    ]
    assert find_flaws(tmp_path / "out.npy", [source]) == []


ORPHANS = """
import sys, time
from pathlib import Path
from protrna_cli.run.auto import Seat
from protrna_cli.run.workers import Workers
from protrna_cli.weights.checkpoint import Checkpoint

with Workers(Checkpoint(Path(sys.argv[1])), "float32", [Seat("cpu", 1)] * 2) as workers:
    print(*(worker._process.pid for worker in workers._workers), flush=True)
    time.sleep(600)
"""


def test_workers_end_with_their_run_also_while_they_start() -> None:
    """They are killed as they import TensorFlow, which takes seconds in which they look at nothing else."""
    words = [sys.executable, "-c", ORPHANS, TOY]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        started = process.stdout.readline().split()
        process.kill()
    assert len(started) == 2
    wait_until_gone(started)


def test_a_worker_that_dies_at_the_start_is_an_error(tmp_path: Path, source: Path, faulty: Any) -> None:
    faulty(at_load=True)
    with pytest.raises(WorkersLost, match="died as it loaded the model, with exit code -9"):
        embed_fasta(source, tmp_path / "out.npy", TWO)
    assert not list(tmp_path.glob("out*"))


def test_the_last_words_of_a_worker_are_told(tmp_path: Path, source: Path, faulty: Any) -> None:
    faulty(at_load=True)
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # as the command keeps libraries quiet
    try:
        with pytest.raises(WorkersLost, match=r"with exit code -9 \(the last words\); use fewer workers="):
            embed_fasta(source, tmp_path / "out.npy", TWO)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def test_memory_that_runs_out_in_a_worker_halves_its_batches(
    tmp_path: Path, source: Path, faulty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty(most_tokens=70)
    embed_fasta(source, tmp_path / "halved.npy", TWO)
    header = json.loads((tmp_path / "halved.npy.meta.json").read_text())
    assert "halved_to" in json.dumps(header)
    with monkeypatch.context() as patch:
        patch.setattr(files, "locate", locate)
        embed_fasta(source, tmp_path / "alone.npy", OPTIONS)
    np.testing.assert_allclose(
        np.load(tmp_path / "halved.npy"), np.load(tmp_path / "alone.npy"), rtol=0, atol=1e-5
    )
    faulty(most_tokens=30)
    with pytest.raises(OutOfMemory, match="residues at once do not fit into memory"):
        embed_fasta(source, tmp_path / "none.npy", TWO)


@pytest.mark.parametrize("toy", [FaultyCheckpoint(), pytest.param(Checkpoint(TOY), marks=pytest.mark.slow)])
def test_what_a_worker_raises_is_raised_here(toy: Checkpoint) -> None:
    with Workers(toy, "float32", [Seat("cpu", 1)]) as one:
        one.wait()
        wrong = one.submit(np.zeros((1, 3), np.int32), np.ones((1, 3), np.float32), [3], "no pooling")
        with pytest.raises(RuntimeError, match=r"(?s)a worker failed:.*KeyError: 'no pooling'"):
            wrong()


@pytest.mark.slow
def test_weights_that_a_worker_cannot_use_are_an_error_here(tmp_path: Path) -> None:
    (tmp_path / "broken.h5").write_bytes(b"no checkpoint")
    with (
        pytest.raises(WeightsError, match=r"broken\.h5"),
        Workers(Checkpoint(tmp_path / "broken.h5"), "float32", [Seat("cpu", 1)]) as workers,
    ):
        workers.wait()


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with three GPUs, as `nvidia-smi` and TensorFlow tell it."""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\nfor i in a b c; do echo GPU-$i, 80000; done\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(smi.parent), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(runtime, "gpu_names", lambda: ("H100",) * 3)
    monkeypatch.setattr(runtime, "configure", lambda device, threads: "cpu" if device == "cpu" else "gpu:0")
    yield


@pytest.mark.usefixtures("gpus")
def test_each_worker_gets_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    options = settle(EmbedOptions(workers="auto"))
    assert options.batch_tokens == 32_768
    found = choose_seats(options, 10**9, 0)
    assert [(seat.device, seat.gpu) for seat in found] == [
        ("gpu", "GPU-a"),
        ("gpu", "GPU-b"),
        ("gpu", "GPU-c"),
    ]
    assert found[1].environment["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    assert len(choose_seats(options, 100_000, 0)) == 1  # of three batches
    with pytest.raises(UsageError, match=r"--workers 4, but there are 3 GPUs.*--workers 3, or"):
        choose_seats(replace(options, workers=4), 10**9, 0)
    monkeypatch.setattr(auto, "available_cpus", lambda: 4)
    monkeypatch.setattr(auto, "available_memory", lambda: 64 << 30)
    assert {seat.device for seat in choose_seats(replace(options, workers=4, device="cpu"), 10**9, 0)} == {
        "cpu"
    }
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-a")
    monkeypatch.setattr(runtime, "gpu_names", lambda: ("H100",) * 2)
    assert [seat.gpu for seat in choose_seats(options, 10**9, 0)] == ["2", "GPU-a"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert settle(EmbedOptions()).batch_tokens < 32_768
    assert choose_seats(options, 10**9, 0)[0].device != "gpu"


@pytest.mark.parametrize(
    ("cores", "gigabytes", "tokens", "threads", "count"),
    [
        (64, 256, 10**7, None, 64),
        (64, 20, 10**7, None, 10),
        (64, 256, 10**7, 8, 8),
        (64, 256, 50_000, None, 6),
        (64, None, 10**7, None, 64),
        (3, 256, 10**7, None, 3),
        (2, 256, 10**7, None, 1),
        (2, 256, 10**7, 1, 2),
        (1, 256, 10**7, None, 1),
        (64, 256, 0, None, 1),
    ],
)
def test_auto_looks_at_cores_memory_and_work(
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    gigabytes: int | None,
    tokens: int,
    threads: int | None,
    count: int,
) -> None:
    monkeypatch.setattr(auto, "available_cpus", lambda: cores)
    monkeypatch.setattr(auto, "available_memory", lambda: gigabytes and gigabytes << 30)
    options = settle(EmbedOptions(workers="auto", device="cpu", threads=threads, batch_tokens=2048))
    found = choose_seats(options, tokens, weight_bytes=1 << 30)
    assert len(found) == count
    assert {seat.threads for seat in found} == {threads if count == 1 else threads or cores // count}


@pytest.mark.parametrize(
    ("cores", "gigabytes", "message"),
    [
        (2, 256, "--workers 200, but this process may use 2 cores; use --workers 2 or fewer"),
        (300, 20, "--workers 200, but this process may use memory for 10 of them; use --workers 10 or fewer"),
        (300, 1, "memory for 1 of them; use --workers 1 or fewer"),
    ],
)
def test_more_workers_than_fit_are_refused(
    monkeypatch: pytest.MonkeyPatch, cores: int, gigabytes: int, message: str
) -> None:
    monkeypatch.setattr(auto, "available_cpus", lambda: cores)
    monkeypatch.setattr(auto, "available_memory", lambda: gigabytes << 30)
    options = EmbedOptions(workers=200, device="cpu", batch_tokens=2048)
    with pytest.raises(UsageError, match=message):
        choose_seats(options, 10**9, weight_bytes=1 << 30)
    monkeypatch.setattr(auto, "available_memory", lambda: None)
    assert len(choose_seats(replace(options, workers=cores), 10**9, 0)) == cores


def test_too_many_workers_are_refused_before_anything_starts(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out.npy"
    outcome = run("embed", SAMPLE, "-o", out, "--model", TOY, "--workers", "2000", "--device", "cpu")
    assert (outcome.code, "--workers 2000, but this process may use" in outcome.err) == (2, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("listed", [False, True])
def test_workers_on_a_gpu_that_is_not_there_are_refused(
    monkeypatch: pytest.MonkeyPatch, listed: bool
) -> None:
    """Also where `nvidia-smi` lists one that TensorFlow cannot use: never on the CPU without a word."""
    monkeypatch.setattr(auto, "visible_gpus", lambda: [Gpu("GPU-a", None)] if listed else [])
    monkeypatch.setattr(runtime, "gpu_names", lambda: ())
    for count in (2, "auto"):
        with pytest.raises(UsageError, match="there is no gpu: TensorFlow sees 0 GPUs"):
            choose_seats(EmbedOptions(workers=count, device="gpu", batch_tokens=2048), 10**9, 0)


def test_workers_are_refused_where_they_make_no_sense(tmp_path: Path, run: Run) -> None:
    words = [
        "embed",
        SAMPLE,
        "-o",
        tmp_path / "out",
        "--model",
        TOY,
        "--workers",
        "2",
        "--batch-tokens",
        "512",
    ]
    for more, message in (
        (["--dask", "local:2"], "--dask has workers of its own"),
        (["--device", "gpu:1"], "--device gpu:1 is only one; choose them with CUDA_VISIBLE_DEVICES"),
    ):
        outcome = run(*words, *more)
        assert (outcome.code, message in outcome.err) == (2, True)


@pytest.mark.parametrize(
    ("variables", "most"),
    [
        ({"MEM_PER_NODE": "2048"}, 2 << 30),
        ({"MEM_PER_CPU": "512", "CPUS_ON_NODE": "4"}, 2 << 30),
        ({"MEM_PER_NODE": "0"}, None),
        ({"MEM_PER_CPU": "many", "CPUS_ON_NODE": "4"}, None),
        ({}, None),
    ],
)
def test_the_memory_of_a_slurm_job_is_a_limit(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], most: int | None
) -> None:
    for name in ("MEM_PER_NODE", "MEM_PER_CPU", "CPUS_ON_NODE"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    free = available_memory()
    assert free is not None
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    found = available_memory()
    assert found is not None
    if most is None:
        assert found > 2 << 30
    else:
        assert found == min(most, free)
