"""Dask: a cluster of two processes, of which one is killed; stopped runs lose nothing."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from protrna_cli import EmbedOptions, embed_fasta
from protrna_cli.errors import ClusterError, InputError, RunMismatch, Stopped, UsageError
from protrna_cli.output.files import partial_path, skipped_path
from protrna_cli.output.stored import parts_of
from protrna_cli.plan import pieces
from protrna_cli.plan.rules import Rules
from protrna_cli.run.outputs import read_position
from protrna_cli.run.report import Amount, Progress, Stop, Summary
from tests.conftest import GOLDEN, SAMPLE, Run, wait_until
from tests.tools import dask_worker
from tests.tools.kill import content, write_input

distributed = pytest.importorskip("distributed", reason='needs pip install "protrna-cli[dask]"')

import dask  # noqa: E402

from protrna_cli.cluster import distribute  # noqa: E402
from protrna_cli.cluster.distribute import PATIENCE, embed_distributed  # noqa: E402
from protrna_cli.fasta.census import Census  # noqa: E402

pytestmark = [
    pytest.mark.dask,
    # A closing cluster leaves sockets and threads to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

OPTIONS = EmbedOptions(
    model=str(GOLDEN / "toy.h5"),
    rules=Rules(on_invalid="skip", max_length=60),
    batch_tokens=150,
    format="parquet",
    threads=1,
    device="cpu",
)

ALONE = replace(
    OPTIONS, threads=None
)  # TensorFlow may already have started in this process, with another number of threads


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two worker processes, each with a nanny that restarts it when it dies."""

    def start() -> Any:
        return distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit=None,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": ":0"},  # any free port: several clusters on one machine
            silence_logs=50,
            preload="tests.tools.dask_worker",
        )

    with dask.config.set(PATIENCE):
        try:
            cluster = start()
        except AssertionError:  # its event loop has 10 s to start, which is too short on a busy machine
            cluster = start()
        with cluster:
            yield cluster


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An input of many small chunks, whose shards are cut between chunks."""
    monkeypatch.setattr(pieces, "CHUNK_RECORDS", 7)
    monkeypatch.setattr(pieces, "CHUNK_RESIDUES", 300)
    monkeypatch.setattr(pieces, "CHUNKS_A_SHARD", 2)
    monkeypatch.setattr("protrna_cli.cluster.distribute.PARTS_PER_WORKER", 2)
    path = tmp_path / "in.fa"
    write_input(path)
    return path


class OnFirstPart(Progress):
    """Calls a function once, as soon as the first part is finished."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act: Callable[[], None] | None = act

    def advance(self, amount: Amount) -> None:
        if self.act:
            act, self.act = self.act, None
            act()


def embed(
    cluster: Any, source: Path, target: Path, progress: Progress | None = None, **change: Any
) -> Summary:
    options = replace(OPTIONS, **change)
    return embed_distributed(
        [source], target, options, cluster.scheduler_address, progress or Progress(), Stop()
    )


def joined(folder: Path) -> tuple[Any, Any, Any, Any]:
    """Rows, values and skipped records of all parts, and the number of parts."""
    parts = [content_of_part(part) for part in parts_of(folder)]
    rows = [row for part in parts for row in part[0]]
    return rows, b"".join(part[1] for part in parts), skipped_path(folder).read_bytes(), len(parts)


def content_of_part(part: Path) -> tuple[Any, bytes]:
    from protrna_cli.output.stored import open_output

    blocks = list(open_output(part).blocks())
    return [row for block in blocks for row in block.rows], b"".join(b.values[0].tobytes() for b in blocks)


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(tmp_path: Path, source: Path, cluster: Any, run: Run) -> None:
    """The output equals that of one process bit for bit; the scheduler only has summaries, briefly."""
    target = tmp_path / "out"
    killed: list[int] = []
    held: list[int] = []

    def kill() -> None:
        locks = (partial_path(target) / "parts").glob("*.lock")
        busy = [int(found[1]) for lock in locks if (found := re.match(r"process (\d+) on", lock.read_text()))]
        os.kill(busy[0], signal.SIGKILL)
        killed.append(busy[0])
        held.extend(task.nbytes or 0 for task in cluster.scheduler.tasks.values())

    summary = embed(cluster, source, target, OnFirstPart(kill))
    assert killed
    assert (summary.n_records, summary.n_skipped) == (84, 6)
    assert max(held) < 2000
    embed_fasta(source, tmp_path / "alone.parquet", ALONE)
    alone = content(tmp_path / "alone.parquet")
    rows, values, skipped, n_parts = joined(target)
    assert n_parts > 4
    assert (rows, values, skipped) == (alone.rows, alone.values[0], alone.skipped)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["in.fa", "out", "out.skipped.tsv", "alone.parquet", "alone.parquet.skipped.tsv"]
    )
    assert run("merge", target, "-o", tmp_path / "merged.parquet").code == 0
    merged = content(tmp_path / "merged.parquet")
    assert merged.header.provenance["distinct"] >= alone.header.provenance["distinct"]  # counted by part
    merged.header.provenance["distinct"] = alone.header.provenance["distinct"]
    assert merged == alone
    assert run("verify", target, source).code == 0
    assert "84 rows" in run("info", target).out
    assert run("convert", target, "-o", tmp_path / "copy.npy").code == 0
    copy = content(tmp_path / "copy.npy")
    copy.header.provenance["distinct"] = alone.header.provenance["distinct"]
    assert copy == alone
    assert run("map", target, "-o", tmp_path / "map.png", "--method", "pca").code == 0
    wait_until(lambda: not cluster.scheduler.tasks, seconds=60)


def kill_a_new_worker() -> Callable[[], None]:
    """Return a function that kills one of the processes that were started meanwhile."""
    old = set(multiprocessing.active_children())
    return lambda: next(each for each in multiprocessing.active_children() if each not in old).kill()


@pytest.mark.slow
def test_the_only_worker_is_waited_for_until_it_is_back(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask gives up one that is not back in time, here at once; the run would then wait for nobody."""
    monkeypatch.setattr(distribute, "WATCH_SECONDS", 0.1)
    progress, notes = OnFirstPart(kill_a_new_worker()), []
    progress.note = notes.append  # type: ignore[method-assign]
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1ms"}):
        embed_distributed([source], tmp_path / "out", OPTIONS, "local:1", progress, Stop())
    assert notes == ["the Dask cluster has no workers any more; waiting for them"]
    embed_fasta(source, tmp_path / "alone.parquet", ALONE)
    assert joined(tmp_path / "out")[0] == content(tmp_path / "alone.parquet").rows


@pytest.mark.slow
def test_workers_that_cannot_be_started_again_are_an_error(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_worker = kill_a_new_worker()

    async def start(process: object) -> None:
        raise OSError("Cannot allocate memory")

    def kill() -> None:
        monkeypatch.setattr("distributed.nanny.WorkerProcess.start", start)
        kill_worker()

    monkeypatch.setattr(distribute, "WATCH_SECONDS", 0.1)
    with pytest.raises(
        ClusterError, match=r"died and cannot be started again .*; run it again with --resume"
    ):
        embed_distributed([source], tmp_path / "out", OPTIONS, "local:1", OnFirstPart(kill), Stop())
    monkeypatch.undo()
    options = replace(OPTIONS, resume=True)
    summary = embed_distributed([source], tmp_path / "out", options, "local:1", Progress(), Stop())
    assert summary.n_resumed > 0


@pytest.mark.slow
def test_pandas_polars_and_duckdb_read_a_folder_as_one_table(
    tmp_path: Path, source: Path, cluster: Any
) -> None:
    import duckdb

    target = tmp_path / "out"
    embed(cluster, source, target)
    ids = [line[1:].split()[0] for line in source.read_text().splitlines() if line.startswith(">")]
    ids = [name for i, name in enumerate(ids) if i % 17]
    assert pd.read_parquet(target)["id"].tolist() == ids
    assert pl.read_parquet(target)["id"].to_list() == ids
    assert pl.scan_parquet(target / "*.parquet").select("id").collect()["id"].to_list() == ids
    assert [row[0] for row in duckdb.sql(f"select id from '{target}/*.parquet'").fetchall()] == ids


def test_a_stopped_run_commits_and_continues(tmp_path: Path, source: Path, cluster: Any) -> None:
    target, waiting = tmp_path / "out", tmp_path / "waiting"
    waiting.mkdir()
    with distributed.Client(cluster) as client:
        client.run(dask_worker.hold, waiting)

    def stop() -> None:
        wait_until(lambda: list(waiting.iterdir()))  # a part has a commit, and will not end
        raise Stopped("stopped by a test")

    def commits() -> list[int]:
        """Count the lines of the journal of each part that runs: one, and one for each commit."""
        journals = partial_path(target).glob("parts/*/journal")
        return [journal.read_text().count("\n") for journal in journals if journal.exists()]

    with pytest.raises(Stopped, match=r"stopped by a test; at least \d+ of 84 records are saved") as stopped:
        embed(cluster, source, target, OnFirstPart(stop))
    assert stopped.value.resumable
    assert not target.exists()
    parts = partial_path(target) / "parts"
    told = int(str(stopped.value).split()[6])
    unfinished = sum(read_position(journal).records for journal in parts.glob("*.partial/journal"))
    finished = sum(len(content_of_part(part)[0]) for part in parts.glob("*.parquet"))
    assert unfinished < told <= unfinished + finished
    assert not list(parts.glob("*.lock"))  # every task has ended
    assert max(commits()) > 1
    with distributed.Client(cluster) as client:
        client.run(dask_worker.hold, None)
    started = sorted(parts.glob("*.partial"))
    with pytest.raises(RunMismatch, match=r'its pooling was "mean", not "max"'):
        embed(cluster, source, target, pool="max", resume=True)
    assert sorted(parts.glob("*.partial")) == started  # none is from the other run
    assert embed(cluster, source, target, resume=True).n_resumed > 0
    before = target.stat().st_mtime_ns
    assert embed(cluster, source, target, resume=True).already_whole
    assert target.stat().st_mtime_ns == before
    with pytest.raises(RunMismatch, match=r'its pooling was "mean", not "max"'):
        embed(cluster, source, target, pool="max", resume=True)
    embed_fasta(source, tmp_path / "alone.parquet", ALONE)
    assert joined(target)[1] == content(tmp_path / "alone.parquet").values[0]


@pytest.mark.slow
def test_an_input_that_changes_during_the_run_is_an_error(tmp_path: Path, source: Path, cluster: Any) -> None:
    def change() -> None:
        source.write_text(source.read_text() + ">more\nA\n")

    with pytest.raises(InputError, match=r"worker on .*in\.fa: changed while it was being read"):
        embed(cluster, source, tmp_path / "out", OnFirstPart(change))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_existing_folder_of_other_files_is_refused(tmp_path: Path, source: Path, cluster: Any) -> None:
    from protrna_cli.errors import OutputUnwritable

    target = tmp_path / "out"
    target.mkdir()
    (target / "thesis.tex").write_text("all of it")
    for overwrite in (False, True):
        with pytest.raises(OutputUnwritable, match="not a folder that protrna embed --dask made"):
            embed(cluster, source, target, overwrite=overwrite)
    (target / "thesis.tex").unlink()
    with pytest.raises(OutputUnwritable, match="exists; use --overwrite"):
        embed(cluster, source, target)
    embed(cluster, source, target, overwrite=True)
    embed(cluster, source, target, overwrite=True, pool="max")
    assert len(pd.read_parquet(target)) == 84


@pytest.mark.slow
def test_an_interrupt_reaches_local_workers_only_through_the_client(tmp_path: Path) -> None:
    """Ctrl-C goes to all processes of a terminal; the test sends it to a process group."""
    rng = np.random.default_rng(1)
    source, target = tmp_path / "in.fa", tmp_path / "out"
    source.write_text("".join(f">r{i}\n{''.join(rng.choice(list('ACGU'), 400))}\n" for i in range(200)))
    words = ["embed", source, "-o", target, "--model", "demo", "--dask", "local:1"]
    command = [sys.executable, "-m", "protrna_cli", *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        vectors = "out.partial/parts/*/vectors.npy"
        wait_until(lambda: any(path.stat().st_size > 1000 for path in tmp_path.glob(vectors)), process)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert f"continue with: protrna embed {source} -o {target} --model demo --dask local:1 --resume" in err
    assert "Traceback" not in err
    assert len(err.splitlines()) == 2
    [journal] = tmp_path.glob("out.partial/parts/*/journal")
    assert journal.read_text().count("\n") == 2  # the key, and what was computed
    assert not target.with_name("out.lock").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["-", "--dask", "local:1"], 2, "save it to a file first"),
        ([SAMPLE, "--dask", "local:0"], 2, "--dask takes local:N"),
        (
            [SAMPLE, "--dask", "local:1", "--format", "npy"],
            2,
            "use protrna merge to convert it to another format",
        ),
        ([SAMPLE, "--dask", "local:1", "--shard", "1/2"], 2, "leave --shard out"),
        ([SAMPLE, "--dask", "nonsense"], 76, "no Dask scheduler there"),
        ([SAMPLE, "--dask", "tcp://127.0.0.1:9"], 76, "no Dask scheduler there"),
    ],
)
def test_options_that_do_not_work_with_dask_are_refused(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, words: list[Any], code: int, message: str
) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b">a\nACGU\n")))
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        outcome = run("embed", *words, "-o", tmp_path / "out", "--model", "demo", "-q")
    assert outcome.code == code, outcome.err
    assert message in outcome.err
    assert not list(tmp_path.iterdir())


def test_without_dask_the_error_shows_what_to_install(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dask", None)
    outcome = run("embed", SAMPLE, "-o", tmp_path / "out", "--model", "demo", "--dask", "local:1", "-q")
    assert outcome.code == 69
    assert 'pip install "protrna-cli[dask]" (from a clone pip install ".[dask]")' in outcome.err


@pytest.mark.slow
def test_a_lost_scheduler_is_an_error(tmp_path: Path, source: Path) -> None:
    """The scheduler is killed before the cluster has a worker."""
    file = tmp_path / "scheduler.json"
    words = ["--no-dashboard", "--port", "0", "--host", "127.0.0.1", "--scheduler-file", str(file)]
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", *words]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as scheduler:

        def kill(text: str) -> None:
            scheduler.kill()

        progress = Progress()
        progress.note = kill  # type: ignore[method-assign]  # called because there are no workers yet
        wait_until(file.exists, scheduler)
        with pytest.raises(ClusterError, match="scheduler"):
            embed_distributed([source], tmp_path / "out", OPTIONS, str(file), progress, Stop())


@pytest.mark.slow
def test_usage_errors_are_the_same_as_without_dask(tmp_path: Path, source: Path, cluster: Any) -> None:
    with pytest.raises(UsageError, match="layer"):
        embed(cluster, source, tmp_path / "out", layers=(99,))


class LostScheduler:
    """A client whose scheduler goes as it is asked to cancel."""

    status, loop = "running", None

    def submit(self, *words: object, **more: object) -> Any:
        return object()

    def cancel(self, futures: object) -> None:
        raise OSError("Timed out trying to connect to the scheduler")


def test_a_stop_stays_a_stop_where_the_scheduler_is_lost_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(*words: object, **more: object) -> Any:
        raise Stopped("stopped by SIGTERM")

    monkeypatch.setattr("distributed.as_completed", stopping)
    shared: Any = SimpleNamespace(
        n_parts=2, folder=tmp_path, checkpoint=None, options=None, census=Census(n_records=7)
    )
    with pytest.raises(Stopped, match="stopped by SIGTERM; at least 0 of 7 records are saved"):
        distribute._run(LostScheduler(), shared, Progress(), Stop())  # type: ignore[arg-type]
