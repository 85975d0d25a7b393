"""Shell pipelines: only Parquet on standard output, progress on stderr; and shell completion."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protrna_cli import EmbedOptions, embed_fasta
from protrna_cli.api.files import stream_fasta
from protrna_cli.cli import progress
from protrna_cli.errors import ReaderGone, Stopped, UsageError
from protrna_cli.output.make import merge
from protrna_cli.plan.rules import Rules
from protrna_cli.plan.shard import Shard
from protrna_cli.run.report import Amount, Stop
from protrna_cli.run.verify import find_flaws
from tests.conftest import SAMPLE, TOY, Run, on_a_terminal, wait_until
from tests.tools.formats import named
from tests.tools.kill import content

RULES = Rules(on_invalid="unknown", max_length=60)
OPTIONS = EmbedOptions(model=str(TOY), rules=RULES, batch_tokens=150)


def shell(line: str, *words: object, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run a bash line in which `protrna` is this package; the words are $1, $2 and so on."""
    function = f'protrna() {{ "{sys.executable}" -m protrna_cli "$@"; }}'
    script = ["bash", "-c", f"{function}; {line}", "bash", *map(str, words)]
    return subprocess.run(script, capture_output=True, env=os.environ | variables, timeout=300)


def write_random(path: Path, records: int, length: int) -> None:
    """Write records without repeats."""
    letters = np.random.default_rng(1).choice(list("ACGU"), (records, length))
    path.write_text("".join(f">r{i}\n{''.join(row)}\n" for i, row in enumerate(letters)))


@pytest.mark.parametrize("name", ["out.npy", "out.h5"])
def test_other_formats_take_standard_input_too(tmp_path: Path, name: str, run: Run, monkeypatch: Any) -> None:
    with SAMPLE.open() as standard_input:
        monkeypatch.setattr(sys, "stdin", standard_input)
        assert run("embed", "-", "-o", tmp_path / name, "--model", TOY, "-q").out == ""
    assert find_flaws(tmp_path / name, [SAMPLE]) == []


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    "kind",
    [{"layers": (1, 3), "pool": "max"}, {"per_token": True, "layers": (0, 2)}],
    ids=str,
)
def test_a_stream_equals_a_file(tmp_path: Path, source: Path, kind: dict[str, object]) -> None:
    options = EmbedOptions(**{**vars(OPTIONS), **kind, "rules": Rules(max_length=60)})
    source.write_text("".join(f">r{i} d\n{'ACGU' * i}\n" for i in range(1, 40)))
    with (tmp_path / "streamed").open("wb") as file:
        summary = stream_fasta(source, file.fileno(), options)
    embed_fasta(source, tmp_path / "file.parquet", options)
    assert summary.n_records == 39
    for name in ("streamed", "file.parquet"):
        (tmp_path / f"{name}.skipped.tsv").touch()
    streamed, file_content = content(tmp_path / "streamed"), content(tmp_path / "file.parquet")
    del file_content.header.provenance["distinct"]  # a pipe finds copies within a chunk only
    assert streamed == file_content
    assert find_flaws(tmp_path / "streamed", [source]) == []


@pytest.mark.usefixtures("small_chunks")
def test_shards_can_be_streamed(tmp_path: Path) -> None:
    parts = [tmp_path / f"part{i}" for i in (1, 2, 3)]
    for i, part in enumerate(parts, start=1):
        with part.open("wb") as file:
            stream_fasta(SAMPLE, file.fileno(), EmbedOptions(model=str(TOY), shard=Shard(i, 3)))
    merge(parts, tmp_path / "out.parquet", named("parquet", "flat"), overwrite=False)
    assert find_flaws(tmp_path / "out.parquet", [SAMPLE]) == []


NOISY = """
import os, sys
from protrna_cli.cli import main as cli
from tests.tools.faulty import FaultyModel
from tests.tools.light import use
embed = FaultyModel._embed_batch
def noisy(*words, **how):
    print("a Python library")
    os.write(1, b"a C library")
    return embed(*words, **how)
FaultyModel._embed_batch = noisy
use()
sys.exit(cli.run(sys.argv[1:]))
"""


def test_what_libraries_print_does_not_get_into_the_output(
    tmp_path: Path, fasta: Callable[[str], Path]
) -> None:
    source = fasta(">a\nACGU\n>b\nGG\n")
    command = [sys.executable, "-c", NOISY, "embed", source, "-o", "-", "--model", TOY]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=300)
    assert done.returncode == 0
    (tmp_path / "out").write_bytes(done.stdout)
    assert done.stdout.endswith(b"PAR1")
    assert b" library" not in done.stdout
    assert find_flaws(tmp_path / "out", [source]) == []


@pytest.mark.slow
def test_a_closed_pipe_ends_the_run_quietly(tmp_path: Path) -> None:
    source, temporary = tmp_path / "in.fa", tmp_path / "tmp"
    temporary.mkdir()
    write_random(source, 20_000, 8)  # 3 MiB of vectors, more than a pipe can buffer
    line = 'protrna embed "$1" -o - --model "$2" | head -c 100 | wc -c; echo "${PIPESTATUS[@]}"'
    done = shell(line, source, TOY, TMPDIR=str(temporary))
    assert done.stdout.decode().split() == ["100", "141", "0", "0"]
    assert done.stderr == b""
    assert not list(temporary.iterdir())


@pytest.mark.slow
def test_a_full_disk_behind_standard_output_is_74() -> None:
    done = shell('protrna embed "$1" -o - --model "$2" > /dev/full', SAMPLE, TOY)
    assert done.returncode == 74
    [line] = done.stderr.decode().splitlines()
    assert "error: standard output: writing failed (No space left on device)" in line


def test_a_terminal_gets_no_binary_file() -> None:
    code, shown = on_a_terminal("embed", SAMPLE, "-o", "-", "--model", TOY, columns=200)
    assert code == 2
    assert "standard output is a terminal; add > out.parquet" in shown
    assert "PAR1" not in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "npy"}, "-o - is always Parquet, not npy; give -o a file"),
        ({"resume": True}, "--resume and --overwrite need a file"),
        ({"overwrite": True}, "--resume and --overwrite need a file"),
        ({"rules": Rules(on_invalid="skip")}, "skipped records are listed beside OUT"),
        ({"rules": Rules(long="skip")}, "skipped records are listed beside OUT"),
    ],
)
def test_options_that_need_a_file_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        stream_fasta(SAMPLE, -1, EmbedOptions(**options))


def test_a_dry_run_works_for_a_stream(run: Run) -> None:
    outcome = run("embed", SAMPLE, "-o", "-", "--model", TOY, "--dry-run", "--json")
    assert json.loads(outcome.out)["records"] == 46


def test_a_stopped_stream_is_not_a_parquet_file(tmp_path: Path) -> None:
    class StopAt(Stop):
        left = 12

        def check(self) -> None:
            self.left -= 1
            if not self.left:
                raise Stopped("stopped by a test")

    source = tmp_path / "in.fa"
    write_random(source, 60_000, 4)
    with (tmp_path / "out").open("wb") as file, pytest.raises(Stopped) as stopped:
        stream_fasta(source, file.fileno(), EmbedOptions(model=str(TOY)), stop=StopAt())
    assert not stopped.value.resumable
    sent = (tmp_path / "out").read_bytes()
    assert len(sent) > 100_000
    assert not sent.endswith(b"PAR1")


@pytest.mark.slow
def test_a_reader_that_does_not_read_cannot_block_a_stop(tmp_path: Path) -> None:
    source = tmp_path / "in.fa"
    write_random(source, 20_000, 8)
    command = [sys.executable, "-m", "protrna_cli", "embed", source, "-o", "-", "--model", TOY]
    read_end, write_end = os.pipe()
    with subprocess.Popen(command, stdout=write_end, stderr=subprocess.PIPE) as process:
        assert process.stderr
        wait_until(lambda: not select.select([], [write_end], [], 0)[1], process)  # the pipe is full
        process.terminate()
        assert process.wait(timeout=300) == 75
        err = process.stderr.read().decode()
    os.close(read_end)
    os.close(write_end)
    assert "stopped by SIGTERM; standard output is incomplete" in err
    assert "continue with" not in err


def test_writing_to_a_closed_pipe_is_reader_gone() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with pytest.raises(ReaderGone):
        stream_fasta(SAMPLE, write_end, OPTIONS)
    os.close(write_end)


NUMBERS = {
    "records_done",
    "records_total",
    "residues_done",
    "residues_total",
    "residues_per_second",
    "elapsed_seconds",
    "eta_seconds",
    "rss_bytes",
}


def test_progress_in_json_is_a_line_at_the_start_and_at_the_end(tmp_path: Path, run: Run) -> None:
    outcome = run("embed", SAMPLE, "-o", tmp_path / "out.npy", "--model", TOY, "--progress", "json", "-q")
    assert outcome.code == 0
    first, *_, last = map(json.loads, outcome.err.splitlines())
    assert set(first) == set(last) == NUMBERS
    assert (first["records_done"], first["residues_done"], first["eta_seconds"]) == (0, 0, None)
    assert (last["records_done"], last["records_total"]) == (46, 46)
    assert (last["residues_done"], last["residues_total"], last["eta_seconds"]) == (7146, 7146, 0)
    assert 100e6 < last["rss_bytes"] < 10e9


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_log_file_gets_a_line_a_minute_and_none_before(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = progress.progress_for("auto", quiet=False)
    lines.start(Amount(1000, 100_000), Amount(300, 30_000))
    lines.resume(Amount(100, 10_000))
    for second in range(1, 131):
        clock.now = second
        lines.advance(Amount(1, 100))
        if second == 59:
            assert capsys.readouterr().err == ""
    lines.close()
    assert capsys.readouterr().err.splitlines() == [
        "protrna: 460 of 1,000 records, 100 residues/s, 9 minutes left",
        "protrna: 520 of 1,000 records, 100 residues/s, 8 minutes left",
    ]


def test_the_first_batch_does_not_decide_how_long_is_left(clock: Clock) -> None:
    meter = progress.Meter(every=60)
    meter.start(Amount(100, 1000))
    told = []
    for second in (20, 24, 28, 32, 36, 40):  # the first batch takes 20 s, each other one 4
        clock.now = second
        meter.advance(Amount(4, 40))
        told.append(meter.seconds_left())
    assert told[0] == pytest.approx(960 * 20 / 40)  # all that is known after one batch
    assert told[3:] == pytest.approx([84, 80, 76])


def test_a_line_without_anything_computed_has_no_rate(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = progress.progress_for("auto", quiet=False)
    lines.start(Amount(1000, 100_000), Amount(1000, 100_000))
    clock.now = 61
    lines.advance(Amount())
    assert capsys.readouterr().err == "protrna: 1,000 of 1,000 records\n"


def test_json_comes_every_five_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    meter = progress.progress_for("json", quiet=True)
    meter.start(Amount(100, 1000))
    for second in range(1, 13):
        clock.now = second
        meter.advance(Amount(1, 10))
    meter.close()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(each["elapsed_seconds"], each["records_done"]) for each in lines] == [
        (0, 0),
        (5, 5),
        (10, 10),
        (12, 12),
    ]
    assert [each["eta_seconds"] for each in lines] == [None, 95, 90, 88]
    assert [each["residues_per_second"] for each in lines] == [0, 10, 10, 10]


def test_progress_comes_with_each_batch(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with its first piece: of a batch of 20 s, that would be a rate twenty times too small."""
    monkeypatch.setattr(progress, "JSON_SECONDS", 0.0)
    words = ["embed", SAMPLE, "--model", TOY, "--batch-tokens", "512"]
    batches = json.loads(run(*words, "--dry-run", "--json").out)["batches"]
    told = run(*words, "-o", tmp_path / "out.npy", "--progress", "json").err.splitlines()
    done = [json.loads(line)["records_done"] for line in told if line[0] == "{"]
    assert len(done) == 1 + batches + 1 > 10
    assert (done[0], done[-1]) == (0, 46)
    assert done == sorted(done)


@pytest.mark.parametrize("kind", ["auto", "json", "none"])
def test_a_short_run_in_a_log_file_is_one_line(tmp_path: Path, run: Run, kind: str) -> None:
    outcome = run("embed", SAMPLE, "-o", tmp_path / "out.npy", "--model", TOY, "--progress", kind)
    lines = [line for line in outcome.err.splitlines() if line[0] != "{"]
    assert len(lines) == 1
    assert lines[0].startswith("protrna: 46 records")
    assert outcome.err.count("{") == (2 if kind == "json" else 0)


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_every_shell_has_a_completion_script(name: str) -> None:
    done = shell("protrna", _PROTRNA_COMPLETE=f"{name}_source")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"_PROTRNA_COMPLETE=" in done.stdout
    if name == "bash":
        assert subprocess.run(["bash", "-n"], input=done.stdout).returncode == 0


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("protrna em", {"plain,embed"}),
        ("protrna embed --prog", {"plain,--progress"}),
        ("protrna embed in.fa --pool m", {"plain,mean", "plain,max"}),
        ("protrna embed samp", {"file,samp"}),
        ("protrna embed in.fa -o ou", {"file,ou"}),
        ("protrna merge out", {"file,out"}),
        ("protrna info out", {"file,out"}),
        ("protrna weights f", {"plain,fetch"}),
        ("protrna embed in.fa --model pro", {"plain,protrna"}),
        ("protrna embed in.fa --model data/", {"file,data/"}),
        ("protrna embed in.fa --weights-dir da", {"dir,da"}),
        ("protrna weights fetch --to da", {"dir,da"}),
        ("protrna weights fetch --from da", {"file,da"}),
        ("protrna weights verify ./", {"file,./"}),
        ("protrna convert out.npy -o ou", {"file,ou"}),
        ("protrna map out.npy -o ou", {"file,ou"}),
        ("protrna map out.npy --coordinates ou", {"file,ou"}),
        ("protrna map out.npy --color-by ou", {"file,ou"}),
    ],
)
def test_words_are_completed(words: str, offered: set[str]) -> None:
    variables = {
        "_PROTRNA_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    done = shell("protrna", **variables)
    assert (done.returncode, done.stderr) == (0, b"")
    assert set(done.stdout.decode().splitlines()) == offered
