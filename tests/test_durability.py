"""Nothing lost: runs are killed, stopped, starved of disk and memory, cut into shards, and come out whole."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protrna_cli import EmbedOptions, embed_fasta, plan
from protrna_cli.errors import (
    NotFinite,
    OutOfMemory,
    OutputUnwritable,
    RunMismatch,
    Stopped,
    UsageError,
    WriteFailed,
)
from protrna_cli.journal import Journal, Position
from protrna_cli.locks import locked
from protrna_cli.merging import merge
from protrna_cli.model.transformer import ProtRNA
from protrna_cli.output import read_output
from protrna_cli.rules import Rules
from protrna_cli.shard import Shard
from protrna_cli.spool import partial_path, shard_path, skipped_path
from protrna_cli.stopping import Stop
from protrna_cli.verifying import verify
from tests.conftest import GOLDEN, ROOT, SAMPLE, Run
from tests.kill import KINDS, assert_equal, content, embed, outputs

TOY = GOLDEN / "toy.h5"
FORMATS = [("parquet", "flat"), ("npy", "flat"), ("h5", "flat"), ("h5", "packed")]
RULES = Rules(on_invalid="skip", max_length=60)
OPTIONS = EmbedOptions(model=str(TOY), rules=RULES, batch_tokens=150, format="npy")


class StopAfter(Stop):
    """Asks to stop at the n-th question."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Stopped("stopped by a test")

    def abandoning(self) -> Any:
        self.check()
        return super().abandoning()


def kind_name(options: EmbedOptions) -> str:
    kind = "both" if options.per_token_output else "token" if options.per_token else options.pool
    return f"{options.format}-{options.h5_layout}-{kind}"


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("options", KINDS, ids=kind_name)
def test_a_run_stopped_anywhere_goes_on_to_the_same_bytes(
    tmp_path: Path, source: Path, options: EmbedOptions
) -> None:
    alone, target = tmp_path / "alone", tmp_path / "stopped"
    embed(source, alone, replace(options, resume=False))
    stops = 0
    for questions in (1, 2, 9, 3, 30, 5, 17, 10_000):
        try:
            summary = embed(source, target, options, stop=StopAfter(questions))
        except Stopped:
            stops += 1
            assert not target.exists()
    assert stops >= 5
    assert summary.n_resumed > 0
    assert_equal(target, alone, options)
    for path in outputs(target, options):
        assert path.exists()
        assert not partial_path(path).exists()


def test_a_few_kills_lose_nothing() -> None:
    """The long campaign is `python -m tests.kill --kills 200`."""
    words = [sys.executable, "-m", "tests.kill", "--kills", "4", "--seed", str(time.time_ns())]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "every output equals the uninterrupted one" in done.stdout


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "protrna_cli", *map(str, words)]


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)],
    ids=str,
)
def test_signals_commit_and_say_how_to_go_on(tmp_path: Path, number: int, code: int) -> None:
    """A real process, stopped while it computes, and resumed with the command that it names."""
    rng = np.random.default_rng(1)
    source = tmp_path / "in.fa"
    source.write_text("".join(f">r{i}\n{''.join(rng.choice(list('ACGU'), 400))}\n" for i in range(400)))
    target = tmp_path / "out.parquet"
    words = ["embed", source, "-o", target, "--model", "demo", "--threads", "1"]
    with subprocess.Popen(command(*words), stderr=subprocess.PIPE, text=True) as process:
        journal = partial_path(target) / "journal"
        while not journal.exists() and process.poll() is None:
            time.sleep(0.05)
        time.sleep(2)
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert f"stopped by {signal.Signals(number).name}" in err
    assert f"go on with: protrna embed {source} -o {target} --model demo --threads 1 --resume" in err
    assert not target.exists()
    assert journal.read_text().count("\n") == 2  # the key, and what was computed
    assert "Traceback" not in err
    assert not target.with_name("out.parquet.lock").exists()


def test_a_second_interrupt_ends_at_once() -> None:
    from protrna_cli.stopping import SignalStop

    before = signal.getsignal(signal.SIGINT)
    with SignalStop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped):
            stop.check()
    assert signal.getsignal(signal.SIGINT) is before


def test_resume_can_always_be_said(tmp_path: Path, source: Path, run: Run) -> None:
    """With nothing to resume it begins; on a finished output of the same run it is done at once."""
    target = tmp_path / "out.h5"
    words = ["embed", source, "-o", target, "--model", TOY, "--on-invalid", "skip", "--h5-layout", "packed"]
    assert run(*words, "--resume").code == 0
    before = target.stat()
    time.sleep(0.01)
    outcome = run(*words, "--resume")
    assert outcome.code == 0
    assert "whole already" in outcome.err
    after = target.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"pool": "max"}, 'its pooling was "mean", not "max"'),
        ({"layers": (1,)}, r"its layers was \[3\], not \[1\]"),
        ({"precision": "bfloat16"}, 'its precision was "float32", not "bfloat16"'),
        ({"dtype": "float16"}, 'its dtype was "float32", not "float16"'),
        ({"per_token": True}, "its per_token was false, not true"),
        ({"batch_tokens": 151}, "its batch_tokens was 150, not 151"),
        ({"model": str(GOLDEN / "head64.h5")}, 'its weights was "'),
        ({"rules": Rules(on_invalid="skip", max_length=59, overlap=15)}, "its max_length was 60, not 59"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_another_runs_leavings_are_refused(
    tmp_path: Path, source: Path, change: dict[str, Any], field: str, finished: bool
) -> None:
    target = tmp_path / "out"
    if finished:
        embed_fasta(source, target, OPTIONS)
    else:
        with pytest.raises(Stopped):
            embed_fasta(source, target, OPTIONS, stop=StopAfter(12))
    with pytest.raises(RunMismatch, match=field):
        embed_fasta(source, target, replace(OPTIONS, resume=True, **change))
    summary = embed_fasta(source, target, replace(OPTIONS, resume=True))
    assert summary.n_resumed > 0


def test_another_input_is_refused(tmp_path: Path, source: Path) -> None:
    embed_fasta(source, tmp_path / "out", OPTIONS)
    source.write_text(source.read_text() + ">more\nA\n")
    with pytest.raises(RunMismatch, match="its input SHA-256 was"):
        embed_fasta(source, tmp_path / "out", replace(OPTIONS, resume=True))


@pytest.mark.usefixtures("small_windows")
def test_an_unfinished_run_is_not_overwritten_unasked(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(Stopped):
        embed_fasta(source, target, OPTIONS, stop=StopAfter(12))
    with pytest.raises(OutputUnwritable, match="use --resume to go on with it, or --overwrite"):
        embed_fasta(source, target, OPTIONS)
    with pytest.raises(UsageError, match="use one of them"):
        embed_fasta(source, target, replace(OPTIONS, resume=True, overwrite=True))
    assert embed_fasta(source, target, replace(OPTIONS, overwrite=True)).n_resumed == 0
    assert not partial_path(target).exists()


def test_what_did_not_begin_leaves_nothing(tmp_path: Path, source: Path) -> None:
    with pytest.raises(Stopped):
        embed_fasta(source, tmp_path / "out", OPTIONS, stop=StopAfter(1))
    assert sorted(tmp_path.iterdir()) == [source]


KEY = {"version": "1"}


def test_a_line_that_was_cut_short_is_no_line(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal.create(path, KEY)
    journal.commit(Position(windows=1, rows=7))
    journal.close()
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole + whole[:cut].rpartition(b"\n")[2])
        resumed = Journal.resume(path, KEY)
        assert resumed.position == Position(windows=1, rows=7)
        resumed.commit(Position(windows=2, rows=9))
        resumed.close()
        again = Journal.resume(path, KEY)
        again.close()
        assert again.position == Position(windows=2, rows=9)


def limited(bytes_: int) -> Callable[[], None]:
    """Set the largest file that a child process may write."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))


@pytest.mark.parametrize("name", ["out.npy", "out.parquet", "out.h5"])
def test_a_file_size_limit_ends_with_74_and_is_resumed(tmp_path: Path, name: str) -> None:
    """1,600 vectors of 40 float32 are 256 kB, of which 100 kB may be written."""
    rng = np.random.default_rng(2)
    source = tmp_path / "in.fa"
    source.write_text("".join(f">r{i}\n{''.join(rng.choice(list('ACGU'), 20))}\n" for i in range(1600)))
    words = command("embed", source, "-o", tmp_path / name, "--model", TOY, "-q")
    done = subprocess.run(words, preexec_fn=limited(100_000), capture_output=True, text=True, timeout=300)
    assert done.returncode == 74, done.stderr
    [line] = done.stderr.splitlines()
    assert "File too large" in line
    assert "--resume" in line
    assert not (tmp_path / name).exists()
    done = subprocess.run([*words, "--resume"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert verify(tmp_path / name, [source]) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk here")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.usefixtures("small_windows")
def test_a_full_disk_is_an_error_and_the_run_goes_on(tmp_path: Path, source: Path, small_disk: Path) -> None:
    """Another program fills the disk while the run goes on; then it makes room."""
    embed_fasta(source, tmp_path / "alone", replace(OPTIONS, per_token=True))
    target = small_disk / "out"
    options = replace(OPTIONS, per_token=True, resume=True)
    hog = small_disk / "hog"

    class FillsTheDisk(Stop):
        def check(self) -> None:
            if (partial_path(target) / "journal").exists() and not hog.exists():
                with hog.open("wb", buffering=0) as file:
                    while shutil.disk_usage(small_disk).free > 40_000 and file.write(bytes(4096)):
                        pass

    with pytest.raises(WriteFailed, match="No space left on device"):
        embed_fasta(source, target, options, stop=FillsTheDisk())
    assert not target.exists()
    hog.unlink()
    assert embed_fasta(source, target, options).n_resumed >= 0
    assert content(target) == content(tmp_path / "alone")


def test_what_cannot_fit_is_told_at_the_start(tmp_path: Path, small_disk: Path, run: Run) -> None:
    rng = np.random.default_rng(2)
    source = tmp_path / "in.fa"
    source.write_text("".join(f">r{i}\n{''.join(rng.choice(list('ACGU'), 200))}\n" for i in range(20)))
    outcome = run("embed", source, "-o", small_disk / "out.npy", "--per-token", "--model", "demo", "-q")
    assert outcome.code == 73
    assert "needs 4.9 MiB, and 1.0 MiB are free" in outcome.err
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize(("format", "h5_layout"), [kind for kind in FORMATS if kind[0] != "npy"])
def test_a_disk_that_fills_while_the_output_is_made(
    tmp_path: Path, small_disk: Path, run: Run, format: str, h5_layout: str
) -> None:
    """All is embedded, but there is no room for the output beside it; with more room it is made from that."""
    rng = np.random.default_rng(2)
    source, out = tmp_path / "in.fa", small_disk / "out"
    source.write_text("".join(f">r{i}\n{''.join(rng.choice(list('ACGU'), 200))}\n" for i in range(20)))
    layout = ["--format", format, "--h5-layout", h5_layout, "--per-token"]
    words = ["embed", source, "-o", out, *layout, "--model", TOY]
    outcome = run(*words)
    assert outcome.code == 74
    note, error = outcome.err.splitlines()
    assert "from which it is made at the end, need up to 1.2 MiB, and 1.0 MiB are free" in note
    assert "No space left on device" in error
    assert not out.exists()
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    outcome = run(*words, "--resume")
    assert outcome.code == 0
    assert "resumed" in outcome.err
    assert verify(out, [source]) == []


def test_a_read_only_folder_is_73(source: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OutputUnwritable, match="Read-only file system"):
        embed_fasta(source, small_disk / "out", OPTIONS)


def test_a_folder_that_vanishes_is_74(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()

    class Vanish(Stop):
        def check(self) -> None:
            if partial_path(folder / "out").exists():
                shutil.rmtree(folder)

    with pytest.raises(WriteFailed, match="No such file or directory"):
        embed_fasta(source, folder / "out", OPTIONS, stop=Vanish())


def run_with(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any, Any], Any]) -> None:
    """Let `change` see every batch before the model does, and the result after it."""
    embed = ProtRNA.embed

    def changed(self: ProtRNA, tokens: Any, *rest: Any) -> Any:
        return change(tokens, lambda: embed(self, tokens, *rest))

    monkeypatch.setattr(ProtRNA, "embed", changed)


@pytest.mark.parametrize("per_token", [False, True])
def test_a_batch_that_does_not_fit_runs_in_halves(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, per_token: bool
) -> None:
    options = replace(OPTIONS, per_token=per_token, batch_tokens=100_000)
    embed_fasta(source, tmp_path / "alone", options)
    sizes: list[int] = []

    def small_device(tokens: Any, run: Any) -> Any:
        if tokens.size > 200:
            raise MemoryError
        sizes.append(tokens.size)
        return run()

    run_with(monkeypatch, small_device)
    embed_fasta(source, tmp_path / "halved", options)
    assert max(sizes) <= 200
    np.testing.assert_allclose(np.load(tmp_path / "halved"), np.load(tmp_path / "alone"), rtol=0, atol=1e-5)


def test_tensorflows_word_for_it_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow's own error, as its allocators raise it on a CPU and on a GPU."""
    import tensorflow as tf

    from protrna_cli import load_model

    model = load_model(TOY)

    def exhausted(*_: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setitem(model.__dict__, "_layer", exhausted)
    with pytest.raises(MemoryError, match="OOM when allocating"):
        model.embed(np.array([[0, 33, 2]], np.int32), np.ones((1, 3), np.float32), [3], "mean")


@pytest.mark.usefixtures("small_windows")
def test_one_record_that_does_not_fit_is_named(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(tokens: Any, run: Any) -> Any:
        if (tokens != 1).sum(1).max() == 62:
            raise MemoryError
        return run()

    run_with(monkeypatch, no_memory)
    with pytest.raises(OutOfMemory, match=r"record \d+ \(id 'r\d+'\): 60 residues at once do not fit"):
        embed_fasta(source, tmp_path / "out", OPTIONS)


@pytest.mark.usefixtures("small_windows")
def test_what_is_no_number_is_an_error_that_names_the_record(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def spoil(tokens: Any, run: Any) -> Any:
        values = run()
        calls.append(1)
        if len(calls) == 5:
            values[0][0] = np.nan
        return values

    with monkeypatch.context() as patch:
        run_with(patch, spoil)
        with pytest.raises(NotFinite, match=r"record \d+ \(id 'r\d+'\): its embedding is not finite"):
            embed_fasta(source, tmp_path / "out", OPTIONS)
    assert embed_fasta(source, tmp_path / "out", replace(OPTIONS, resume=True)).n_resumed > 0


def test_numbers_beyond_float16_are_an_error(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with(monkeypatch, lambda tokens, run: [values * 1e6 for values in run()])
    with pytest.raises(NotFinite, match="not finite in float16; try --dtype float32"):
        embed_fasta(source, tmp_path / "out", replace(OPTIONS, dtype="float16"))


def test_two_processes_cannot_make_one_output(tmp_path: Path, source: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from protrna_cli.locks import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    target = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", script, target], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(OutputUnwritable, match=rf"process {other.pid} on .* is writing it"):
            embed_fasta(source, target, OPTIONS)
        other.kill()
    assert target.with_name("out.lock").exists()  # stale, and no hindrance
    embed_fasta(source, target, OPTIONS)
    assert not target.with_name("out.lock").exists()
    with locked(target), pytest.raises(OutputUnwritable), locked(target):
        pass


@given(st.lists(st.integers(0, 40), min_size=1, max_size=40).filter(any), st.integers(1, 12), st.booleans())
def test_shards_are_a_partition_in_order(costs: list[int], count: int, by_window: bool) -> None:
    class Item:
        def __init__(self, place: int, length: int) -> None:
            self.place, self.length = place, length

    items = [Item(place, length) for place, length in enumerate(costs)]
    slices = [
        list(plan.sliced(items, Shard(i, count), lambda item: item.length, sum(costs), by_window))
        for i in range(1, count + 1)
    ]
    assert [item for each in slices for item in each] == items
    if not by_window:
        heaviest = max(sum(item.length for item in each) for each in slices)
        assert heaviest <= sum(costs) / count + max(costs)


@pytest.mark.parametrize(("count", "by_window"), [(7, False), (2, True)])
@pytest.mark.parametrize(("format", "h5_layout"), FORMATS)
def test_merged_shards_equal_one_run(
    tmp_path: Path, source: Path, format: str, h5_layout: str, count: int, by_window: bool, monkeypatch: Any
) -> None:
    """Bit for bit when they are cut between windows."""
    if by_window:
        monkeypatch.setattr(plan.windows, "__defaults__", (7, 300))
        monkeypatch.setattr(plan, "WINDOWS_A_SHARD", 2)
    options = replace(OPTIONS, format=format, h5_layout=h5_layout)
    target = tmp_path / "out.x"
    for i in range(1, count + 1):
        embed_fasta(source, target, replace(options, shard=Shard(i, count)))
    parts = [shard_path(target, Shard(i, count)) for i in range(count, 0, -1)]
    assert all(verify(part, [source]) == [] for part in parts[:: max(1, count // 5)])
    sizes = [read_output(part)[0].n_rows for part in parts]
    assert sum(sizes) == 84
    merge(parts, target, format, h5_layout, overwrite=False)
    embed_fasta(source, tmp_path / "alone", options)
    merged, alone = content(target), content(tmp_path / "alone")
    assert merged.header == alone.header
    assert merged.rows == alone.rows
    assert merged.skipped == alone.skipped
    if by_window:
        assert merged.values == alone.values
    for layers in zip(merged.values, alone.values, strict=True):
        one, other = (np.frombuffer(layer, "<f4") for layer in layers)
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert verify(target, [source]) == []


def test_there_may_be_more_shards_than_records(tmp_path: Path) -> None:
    source, target = tmp_path / "in.fa", tmp_path / "out.parquet"
    source.write_text(">a\nACGU\n>b\nGG\n>c\n*\n")
    options = replace(OPTIONS, format="parquet")
    parts = []
    for i in range(1, 8):
        embed_fasta(source, target, replace(options, shard=Shard(i, 7)))
        parts.append(shard_path(target, Shard(i, 7)))
    assert sorted(read_output(part)[0].n_rows for part in parts) == [0, 0, 0, 0, 0, 1, 1]
    merge(parts, target, "parquet", "flat", overwrite=False)
    assert verify(target, [source]) == []


def test_merge_refuses_what_is_not_all_of_one_run(tmp_path: Path, source: Path, run: Run) -> None:
    def part(i: int, count: int, **change: Any) -> Path:
        folder = tmp_path / repr(change)
        folder.mkdir(exist_ok=True)
        options = replace(OPTIONS, shard=Shard(i, count), overwrite=True, **change)
        embed_fasta(source, folder / "p.npy", options)
        return shard_path(folder / "p.npy", Shard(i, count))

    first, second, third = (part(i, 3) for i in (1, 2, 3))
    out = tmp_path / "out.npy"
    for parts, words in [
        ([first, third], "shard 2/3 is missing; run protrna embed with --shard 2/3"),
        ([first, second, third, second], "holds shard 2/3, as "),
        ([first, second, part(3, 3, pool="max")], 'its pooling was "mean", not "max"'),
        ([first, second, part(3, 4)], "its shard was 3, not 4"),
        ([first, second, source], "neither Parquet, HDF5 nor NumPy"),
        ([first, second, tmp_path / "none.npy"], "cannot be read"),
    ]:
        outcome = run("merge", *parts, "-o", out)
        assert outcome.code in (65, 66, 78)
        assert words in outcome.err
        assert not out.exists()
    assert run("merge", first, second, third, "-o", out).code == 0
    assert run("merge", first, second, third, "-o", out).code == 73
    assert run("merge", first, second, third, "-o", out, "--overwrite", "-q").err == ""


def damage_row(index: Path, out: Path) -> None:
    index.write_text(index.read_text().replace("r5\t", "r6\t"))


def lose_row(index: Path, out: Path) -> None:
    lines = index.read_text().splitlines(keepends=True)
    index.write_text("".join(lines[:-1]))


def spoil_value(index: Path, out: Path) -> None:
    array = np.load(out, mmap_mode="r+")
    array[3, 3] = np.inf
    array.flush()


def forget_skipped(index: Path, out: Path) -> None:
    skipped_path(out).unlink()


def list_too_many(index: Path, out: Path) -> None:
    with skipped_path(out).open("a") as file:
        file.write("in.fa\t2\tr1\t3\t0\tno reason\n")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_row, "row 5 (id 'r6'): its id is 'r6', and the record's 'r5'"),
        (lose_row, "have no row"),
        (spoil_value, "row 4 (id 'r4'): its embedding is not finite"),
        (forget_skipped, "record 1 (id 'r0'): left out, and not listed"),
        (list_too_many, "lists record 2 (id 'r1'), which has a row"),
    ],
)
def test_verify_finds_what_is_wrong(
    tmp_path: Path, source: Path, run: Run, damage: Callable[[Path, Path], None], words: str
) -> None:
    out = tmp_path / "out.npy"
    embed_fasta(source, out, OPTIONS)
    assert run("verify", out, source).code == 0
    damage(out.with_name("out.npy.index.tsv"), out)
    outcome = run("verify", out, source)
    assert outcome.code == 65
    assert words in outcome.err


def test_verify_wants_the_same_input(tmp_path: Path, source: Path, run: Run) -> None:
    out = tmp_path / "out.npy"
    embed_fasta(source, out, OPTIONS)
    outcome = run("verify", out, SAMPLE)
    assert outcome.code == 65
    assert "its SHA-256 differs" in outcome.err
    assert len(outcome.err.splitlines()) <= 21


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3"])
def test_what_is_no_shard_is_refused(run: Run, text: str) -> None:
    outcome = run("embed", SAMPLE, "-o", "out.npy", "--shard", text)
    assert (outcome.code, "--shard takes I/N" in outcome.err) == (2, True)
