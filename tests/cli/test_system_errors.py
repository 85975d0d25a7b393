"""Errors of the system are told as what they are: where, why, and not as failed writes of something else."""

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest

from protrna_cli import disk
from protrna_cli.output.files import partial_path
from tests.conftest import SAMPLE, TOY, Run
from tests.tools.runs import command


def refuse(number: int, name: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), name)


def test_an_error_that_nobody_foresaw_is_told_as_it_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `fork` refused: neither a traceback, nor a word of standard output."""

    def fail(*words: object) -> None:
        raise refuse(errno.EAGAIN)

    monkeypatch.setattr("protrna_cli.output.describe.describe", fail)
    done = run("info", SAMPLE)
    assert done.code == 71
    assert done.err == (
        "protrna: error: Resource temporarily unavailable; add -v for the place in the program\n"
    )
    for verbose in ("-v", "--verbose", "-qv"):
        assert "Traceback" in run("info", SAMPLE, verbose).err


def test_a_missing_program_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*words: object) -> None:
        raise refuse(errno.ENOENT, "/gone/python")

    monkeypatch.setattr("protrna_cli.output.describe.describe", fail)
    assert "error: /gone/python: No such file or directory" in run("info", SAMPLE).err


def test_a_working_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    words = command("embed", SAMPLE, "-o", "out.parquet", "--model", TOY)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        ["bash", "-c", script, "bash", gone, *words],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode in (71, 73)
    assert "standard output" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words", [["--help"], ["embed", "--help"], ["--version"], ["cite"], ["help", "start"]]
)
def test_a_result_that_cannot_be_written_is_a_failed_write(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command(*words), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 74
    assert done.stderr == "protrna: error: standard output: writing failed (No space left on device)\n"


def test_quiet_prints_no_notes_whatever_the_progress(run: Run, tmp_path: Path) -> None:
    fasta = tmp_path / "in.fa"
    fasta.write_text(">odd\nNNNA\n")
    for progress in ("bar", "json", "none", "auto"):
        words = ["embed", fasta, "-o", tmp_path / "out.npy", "--model", TOY, "--overwrite"]
        assert "note: record 'odd'" in run(*words, "--progress", progress).err
        assert "note:" not in run(*words, "--progress", progress, "-q").err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "-", "--resume"], "--resume and --overwrite need a file"),
        (["-o", "/dev/null", "--reuse", "x.npy"], "--reuse needs a file"),
        (["-o", "out", "--dask", "local:1", "--shard", "1/2"], "--dask cuts the run into shards itself"),
    ],
)
def test_a_dry_run_refuses_what_the_run_refuses(run: Run, words: list[str], message: str) -> None:
    done = run("embed", SAMPLE, "--model", TOY, "--dry-run", *words)
    assert (done.code, message in done.err) == (2, True), done.err


def test_a_dry_run_counts_what_is_saved(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    words = ["embed", SAMPLE, "-o", out, "--model", TOY, "--resume", "--dry-run", "--json"]
    whole = json.loads(run(*words).out)
    assert whole["saved"] == 0
    partial_path(out).mkdir()
    position = {"chunks": 0, "batches": 2, "records": 7, "residues": 9, "vectors": 0, "index_bytes": 0}
    position |= {"skipped_bytes": 0, "reused": 0, "fits": 0}
    (partial_path(out) / "journal").write_text("{}\n" + json.dumps(position) + "\n")
    left = json.loads(run(*words).out)
    assert (left["saved"], left["batches"]) == (7, whole["batches"] - 2)
    assert 0 < left["tokens"] < whole["tokens"]
    assert "7 of 46 records, by the unfinished run" in " ".join(run(*words[:-1]).out.split())


def test_a_name_that_is_too_long_is_said_so(run: Run, tmp_path: Path) -> None:
    name = "x" * 241 + ".npy"
    done = run("embed", SAMPLE, "-o", tmp_path / name, "--model", TOY)
    assert done.code == 73
    assert "its name is too long" in done.err
    assert "choose one of at most 243 bytes" in done.err
    shortest = "x" * 239 + ".npy"
    assert run("embed", SAMPLE, "-o", tmp_path / shortest, "--model", TOY).code == 0


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.EINVAL])
def test_a_file_system_that_cannot_sync_folders_is_tolerated(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fsync = os.fsync

    def limited(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise refuse(number)
        fsync(descriptor)

    monkeypatch.setattr(disk.os, "fsync", limited)
    assert run("embed", SAMPLE, "-o", tmp_path / "out.npy", "--model", TOY).code == 0
    assert not partial_path(tmp_path / "out.npy").exists()


def test_after_a_refused_rename_the_run_goes_on_elsewhere(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    words = ["embed", SAMPLE, "--model", TOY]
    replace = Path.replace

    def refusing(path: Path, target: Path) -> Path:
        if target.parent == one:
            raise refuse(errno.ENOTSUP)
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refusing)
        done = run(*words, "-o", one / "out.parquet")
    assert done.code == 74
    assert "make room" not in done.err
    assert "move out.parquet.partial to another file system" in done.err
    partial_path(one / "out.parquet").rename(partial_path(other / "out.parquet"))
    monkeypatch.setattr(
        "protrna_cli.model.transformer.ProtRNA._embed_batch", lambda *batch: pytest.fail("computed again")
    )
    done = run(*words, "-o", other / "out.parquet", "--resume")
    assert done.code == 0
    assert run("verify", other / "out.parquet", SAMPLE).code == 0


def test_a_limit_of_one_process_is_not_told_as_ctrl_c(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protrna_cli.machine.os.getuid", lambda: 7)
    monkeypatch.setattr("protrna_cli.machine.resource.getrlimit", lambda kind: (1, 1))
    words = ["embed", SAMPLE, "-o", tmp_path / "out.npy", "--model", TOY]
    assert run(*words, "--dry-run").code == 71
    done = run(*words)
    assert (done.code, "the limit on processes and threads (ulimit -u) is 1" in done.err) == (71, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_flag_that_xla_does_not_know_is_named(tmp_path: Path, run: Run, workers: str) -> None:
    words = ["embed", SAMPLE, "-o", tmp_path / "out.npy", "--model", TOY, "--workers", workers]
    environment = {**os.environ, "XLA_FLAGS": "--xla_no_such_flag=1"}
    one_death = "from protrna_cli.run import workers; workers.MAX_DEATHS = 1"
    start = command(*words, first=one_death)
    done = subprocess.run(start, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode != 0
    assert "xla_no_such_flag" in done.stderr
    assert "Traceback" not in done.stderr
    assert run(*words[:-2], "--resume").code == 0
