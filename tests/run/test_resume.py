"""Stopped and killed runs continue where they stopped, and give the same bytes."""

import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from protrna_cli import EmbedOptions, embed_fasta
from protrna_cli.api import files
from protrna_cli.errors import OutputUnwritable, RunMismatch, Stopped, UsageError
from protrna_cli.output.files import partial_path
from protrna_cli.plan import pieces
from protrna_cli.plan.rules import Rules
from protrna_cli.run.outputs import read_position
from protrna_cli.run.report import NOTHING, Amount, Progress
from tests.conftest import GOLDEN, ROOT, TOY, Run
from tests.tools.cases import slow_except
from tests.tools.faulty import FaultyCheckpoint
from tests.tools.kill import KINDS, assert_equal, embed, outputs
from tests.tools.runs import OPTIONS, StopAfter


def kind_name(options: EmbedOptions) -> str:
    kind = "both" if options.per_token_output else "token" if options.per_token else options.pool
    return f"{options.format}-{options.h5_layout}-{kind}{'-reuse' * bool(options.reuse)}"


QUICK_KINDS = [KINDS[i] for i in (1, 3, 8, 11, 13, 14)]
"""One of each format, layout, pooling and number of outputs."""


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("options", slow_except(QUICK_KINDS, KINDS), ids=kind_name)
def test_a_run_stopped_anywhere_gives_the_same_bytes(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, options: EmbedOptions
) -> None:
    """Workers have the reference model: they are started again after each stop, and it starts at once."""
    if options.workers != 1:
        monkeypatch.setattr(files, "locate", lambda *_: FaultyCheckpoint())
    alone, target = tmp_path / "alone", tmp_path / "stopped"
    embed(source, alone, replace(options, resume=False))
    stops = 0
    for checks in (1, 2, 9, 3, 30, 5, 17, 10_000):
        try:
            summary = embed(source, target, options, stop=StopAfter(checks))
        except Stopped:
            stops += 1
            assert not target.exists()
    assert stops >= 5
    assert summary.n_resumed > 0
    assert_equal(target, alone, options)
    for path in outputs(target, options):
        assert path.exists()
        assert not partial_path(path).exists()


class Told(Progress):
    """Remembers what a run reports."""

    def start(self, total: Amount, resumed: Amount = NOTHING) -> None:
        self.total, self.resumed, self.ran = total, resumed, NOTHING

    def advance(self, amount: Amount) -> None:
        self.ran += amount


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("options", "chunk_records"),
    slow_except(
        [(KINDS[1], 7), (KINDS[2], 1000), (KINDS[13], 7)], product([KINDS[1], KINDS[2], KINDS[13]], [7, 1000])
    ),
    ids=lambda each: each if isinstance(each, int) else kind_name(each),
)
def test_what_is_saved_resumed_and_run_adds_up(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, options: EmbedOptions, chunk_records: int
) -> None:
    """In many chunks and in one; with records in windows, repeats, two outputs and regions."""
    monkeypatch.setattr(pieces, "CHUNK_RECORDS", chunk_records)
    monkeypatch.setattr(pieces, "CHUNK_RESIDUES", chunk_records * 50)
    whole = embed(source, tmp_path / "alone", replace(options, resume=False))
    total = whole.computed
    assert total.records < whole.n_records  # copies do not run
    target, saved = tmp_path / "stopped", NOTHING
    for checks in (8, 12, 15, 9, 19, 10_000):
        told = Told()
        try:
            summary = embed(source, target, options, StopAfter(checks), told)
            break
        except Stopped as stopped:
            assert told.resumed == saved  # before anything runs
            journals = [partial_path(path) / "journal" for path in outputs(target, options)]
            [at, *others] = [read_position(journal) for journal in journals]
            assert all(other.records == at.records for other in others)
            saved = Amount(at.records, at.residues)
            # The rest of what ran belongs to records that wait for their last window.
            assert NOTHING.records < saved.records <= (told.resumed + told.ran).records
            assert str(stopped) == f"stopped by a test; {saved.records} of {total.records} records are saved"
            assert stopped.resumable
    assert (told.total, told.resumed, told.resumed + told.ran) == (total, saved, total)
    assert summary.resumed == saved
    rate = told.ran.residues / summary.seconds
    assert f"; {saved} resumed, {told.ran} run in {summary.seconds:.1f} s, {rate:,.0f} residues/s" in (
        summary.text()
    )


@pytest.mark.slow
def test_a_few_kills_lose_nothing() -> None:
    """The long campaign is `python -m tests.tools.kill --kills 200`."""
    words = [sys.executable, "-m", "tests.tools.kill", "--kills", "4", "--seed", str(time.time_ns())]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "every output is that of the uninterrupted run" in done.stdout


def test_resume_may_always_be_given(tmp_path: Path, source: Path, run: Run) -> None:
    """With nothing to resume, the run starts; if the output is already complete, the run ends at once."""
    target = tmp_path / "out.h5"
    words = ["embed", source, "-o", target, "--model", TOY, "--on-invalid", "skip", "--h5-layout", "packed"]
    assert run(*words, "--resume").code == 0
    before = target.stat()
    time.sleep(0.01)
    outcome = run(*words, "--resume")
    assert outcome.code == 0
    assert "already complete" in outcome.err
    after = target.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.usefixtures("small_chunks")
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
@pytest.mark.parametrize("finished", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_output_of_another_run_is_refused(
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


@pytest.mark.usefixtures("small_chunks")
def test_an_unfinished_run_is_overwritten_only_when_asked(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(Stopped):
        embed_fasta(source, target, OPTIONS, stop=StopAfter(12))
    with pytest.raises(OutputUnwritable, match="use resume=True to continue it, or overwrite=True"):
        embed_fasta(source, target, OPTIONS)
    with pytest.raises(UsageError, match="use one of them"):
        embed_fasta(source, target, replace(OPTIONS, resume=True, overwrite=True))
    assert embed_fasta(source, target, replace(OPTIONS, overwrite=True)).n_resumed == 0
    assert not partial_path(target).exists()


def test_a_run_stopped_before_its_first_commit_leaves_nothing(tmp_path: Path, source: Path) -> None:
    with pytest.raises(Stopped):
        embed_fasta(source, tmp_path / "out", OPTIONS, stop=StopAfter(1))
    assert sorted(tmp_path.iterdir()) == [source]
