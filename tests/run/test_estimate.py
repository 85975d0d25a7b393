"""`--dry-run`: counts, and estimates of time and memory that agree with what was measured."""

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from protrna_cli import EmbedOptions, embed_fasta
from protrna_cli.api.files import estimate_fasta
from protrna_cli.errors import Stopped, UsageError
from protrna_cli.model.structure import PUBLISHED_SIZE, ModelSize
from protrna_cli.model.transformer import ProtRNA
from protrna_cli.plan.rules import Rules
from protrna_cli.run import auto
from protrna_cli.run.auto import Work
from protrna_cli.run.run import rate_key
from tests.conftest import SAMPLE, TOY, Run
from tests.run.test_embed import random_sequence, write_fasta
from tests.tools.runs import StopAfter


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path, run: Run) -> None:
    sequences = [random_sequence(n, n) for n in (510, 700, 10)]
    path = write_fasta(tmp_path / "in.fa", [*sequences, sequences[2], "acgx"])
    words = ["embed", path, "-o", tmp_path / "out.npy", "--model", TOY, "--dry-run"]
    found = json.loads(run(*words, "--json", "--batch-tokens", 1024).out)
    counted = {key: found[key] for key in ("records", "residues", "unknown", "long", "copied", "skipped")}
    assert counted == {"records": 5, "residues": 1234, "unknown": 1, "long": 1, "copied": 1, "skipped": 0}
    # Three pieces of 510 in two batches, because a batch has space for two; then 10 and 4 together.
    assert (found["tokens"], found["batches"]) == (3 * 512 + 12 + 6, 3)
    assert found["padding_share"] == pytest.approx(1 - (3 * 512 + 12 + 6) / (3 * 512 + 32))
    assert found["output_bytes"] == 5 * 40 * 4
    assert found["seconds"] is None
    told = dict(line.split("  ", 1) for line in run(*words).out.splitlines())
    assert {name: told[name].strip() for name in ("input", "records", "distinct", "residues", "time")} == {
        "input": "in.fa",
        "records": "5, 1 of them long",
        "distinct": "4 computed, 1 copied",
        "residues": "1,234, 1 of them unknown",
        "time": "unknown before the first run",
    }
    assert told["model"].strip() == f"{TOY}: 3 layers, width 40, 5 heads"
    assert "windows of 510 residues that share at least 127" in told["long records"]
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("format", [None, "h5"])
def test_a_dry_run_needs_no_output(tmp_path: Path, run: Run, format: str | None) -> None:
    words = [
        "embed",
        SAMPLE,
        "--model",
        TOY,
        "--dry-run",
        "--json",
        *(["--format", format] if format else []),
    ]
    named = run(*words, "-o", tmp_path / f"out.{format or 'parquet'}")
    assert run(*words) == named
    assert named.code == 0
    outcome = run(*words[:4])
    assert (outcome.code, "-o OUT is missing" in outcome.err) == (2, True)


def test_a_dry_run_uses_the_last_speed_and_needs_no_weights(tmp_path: Path, run: Run, home: Path) -> None:
    path = write_fasta(tmp_path / "in.fa", ["acgu"])
    key = rate_key(PUBLISHED_SIZE, EmbedOptions(threads=3))
    operations = 33 * (24 * 1280**2 * 32 + (4 * 1280 + 20 * 70) * 6**2)  # 6 tokens in 32 rows
    auto.remember(home / "rates.json", key, operations / 12_000)
    words = ["embed", path, "-o", tmp_path / "out.npy", "--dry-run", "--threads", 3]
    found = json.loads(run(*words, "--json").out)
    assert found["seconds"] == pytest.approx(12_000 + 33 * 0.002 + 0.4)
    assert found["seconds_range"] == pytest.approx([0.75 * found["seconds"], 1.4 * found["seconds"]])
    assert found["seconds_from"] == "runs"
    assert found["output_bytes"] == 1280 * 4
    assert "2 h 30 min to 4 h 40 min, as fast as the last runs like it" in run(*words).out


def test_one_run_on_a_busy_machine_does_not_spoil_the_estimates(home: Path) -> None:
    file = home / "rates.json"
    for rate in (100.0, 101.0, 7.0):
        auto.remember(file, "key", rate)
    assert (auto.recall(file, "key"), auto.recall(file, "other")) == ([7.0, 101.0, 100.0], [])
    for rate in range(1, 9):
        auto.remember(file, "key", rate)
    assert auto.recall(file, "key") == [8, 7, 6, 5, 4]
    file.write_text('{"key": 12.5}')  # as version 0.2.0 kept it
    auto.remember(file, "key", 13.0)
    assert auto.recall(file, "key") == [13.0, 12.5]


@pytest.mark.usefixtures("small_trials")
def test_without_a_run_the_doctor_knows_and_without_it_a_trial(
    tmp_path: Path, run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_fasta(tmp_path / "in.fa", ["acgu" * 30] * 3 + ["acgu"])
    words = ["embed", path, "--model", "demo", "--dry-run", "--json"]
    asked = []

    def measured(model: ProtRNA, length: int, count: int) -> float:
        asked.append((length, count))
        return 0.5

    monkeypatch.setattr("protrna_cli.model.trial.quick_seconds", measured)
    tried = json.loads(run(*words).out)
    operations = 6 * (24 * 320**2 * 64 + (4 * 320 + 70 * 20) * 64**2)  # a batch of one piece of the median
    assert (tried["seconds_from"], asked) == ("trial", [(62, 32)])
    total = Work()
    total.add([122])
    total.add([6])
    assert tried["seconds"] == pytest.approx(
        total.seconds(ModelSize(6, 320, 20), 6, 2 * 32 * operations), rel=0.01
    )
    untried = json.loads(run(*words, "--no-trial").out)
    assert (untried["seconds"], untried["seconds_range"], untried["seconds_from"]) == (None, None, None)
    assert run("doctor", "--model", "demo").code == 0
    examined = json.loads(run(*words, "--no-trial").out)
    assert (examined["seconds_from"], len(asked)) == ("doctor", 1)
    assert examined["seconds_range"][0] < examined["seconds"] < examined["seconds_range"][1]
    assert run("embed", path, "-o", tmp_path / "out.npy", "--model", "demo", "--no-trial").code == 2


@pytest.mark.parametrize(
    "content", ['{"3x40 float32 auto 2": 1234.5}', '{"KEY": "fast"}', '{"KEY": 0}', "[1]", "{", ""]
)
def test_other_speeds_are_ignored(run: Run, home: Path, content: str) -> None:
    """Those of earlier versions were tokens per second."""
    key = rate_key(ModelSize(3, 40, 5), EmbedOptions(threads=2))
    (home / "rates.json").write_text(content.replace("KEY", key))
    outcome = run("embed", SAMPLE, "--model", TOY, "--threads", 2, "--dry-run", "--json")
    assert (outcome.code, json.loads(outcome.out)["seconds"]) == (0, None)


@pytest.mark.usefixtures("small_chunks")
def test_a_run_remembers_its_speed_unless_nearly_all_was_resumed(
    tmp_path: Path, source: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protrna_cli.run.run.MEASURABLE_SECONDS", float("inf"))
    checks = StopAfter(10_000)
    options = EmbedOptions(model=str(TOY), rules=Rules(on_invalid="skip"), batch_tokens=150, resume=True)
    target = tmp_path / "out.npy"
    embed_fasta(source, tmp_path / "short.npy", options, stop=checks)
    with pytest.raises(Stopped):
        embed_fasta(source, target, options, stop=StopAfter(10_000 - checks.left - 1))
    monkeypatch.setattr("protrna_cli.run.run.MEASURABLE_SECONDS", 0.0)
    embed_fasta(source, target, options)
    assert not (home / "rates.json").exists()
    embed_fasta(source, tmp_path / "again.npy", options)
    assert estimate_fasta(source, target, options).seconds is not None


MEASURED: dict[ModelSize, list[tuple[int, int, float]]] = {
    ModelSize(6, 320, 20): [
        (16, 128, 0.360),
        (128, 16, 0.419),
        (512, 4, 0.588),
        (1024, 2, 0.841),
        (2048, 1, 1.173),
        (4096, 1, 4.153),
        (512, 16, 2.178),
        (6000, 1, 8.408),
    ],
    ModelSize(33, 640, 10): [
        (16, 16, 0.899),
        (16, 128, 6.939),
        (128, 16, 7.269),
        (512, 4, 8.049),
        (1024, 2, 9.356),
        (2048, 1, 11.427),
        (4096, 1, 32.803),
    ],
}
"""Tokens of a piece, pieces of a batch, and its seconds of CPU time on two cores, once all is compiled."""


@pytest.mark.parametrize("size", MEASURED, ids=str)
def test_the_speed_of_any_run_predicts_the_time_of_any_other(size: ModelSize) -> None:
    """Whether the pieces are short or long: attention and softmax are counted for what they cost."""
    for (*learned, took), (*wanted, expected) in product(MEASURED[size], repeat=2):
        works = [Work(), Work()]
        for work, (tokens, pieces) in zip(works, (learned, wanted), strict=True):
            for _ in range(20):
                work.add([tokens] * pieces)
            work.row_counts.clear()  # all is compiled
        speed = works[0].speed(size, size.layers, 20 * took)
        assert works[1].seconds(size, size.layers, speed) == pytest.approx(20 * expected, rel=0.25)


def memory(source: Path, **options: Any) -> int:
    kind = {"model": "demo", **options}
    return estimate_fasta(source, kind.pop("out", "out.parquet"), EmbedOptions(**kind)).memory_bytes


def test_memory_grows_with_what_needs_it(tmp_path: Path) -> None:
    source = write_fasta(tmp_path / "in.fa", [random_sequence(n, n) for n in (510, 510, 510, 2000, 100)])
    usual = memory(source)
    for more in (
        {"batch_tokens": 4096},
        {"per_token": True},
        {"pool": "max"},  # of a record in windows: its residues are joined first
        {"rules": Rules(long="whole")},
        {"layers": (1, 2, 3)},
    ):
        assert memory(source, **more) > usual, more
    published = {"model": "protrna"}
    assert memory(source, **published, precision="bfloat16") < memory(source, **published) - (1 << 30)
    residues = {"per_token": True, "layers": (1, 6)}
    assert memory(source, **residues, out="out.npy") < memory(source, **residues)
    with pytest.raises(UsageError, match="layers 0 to 6, not 7"):
        memory(source, layers=(7,))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured as Linux reports it")
@pytest.mark.parametrize(
    ("model", "records", "length", "options"),
    [
        ("demo", 400, 60, []),
        ("demo", 8, 510, ["--batch-tokens", "4096"]),
        ("demo", 1, 3000, ["--long", "whole"]),
        (TOY, 5000, 150, ["--per-token"]),
    ],
)
def test_peak_memory_is_near_the_estimate(
    tmp_path: Path, run: Run, model: object, records: int, length: int, options: list[str]
) -> None:
    path = write_fasta(tmp_path / "in.fa", [random_sequence(length - i % 30, i) for i in range(records)])
    words = ["embed", path, "-o", tmp_path / "out.parquet", "--model", model, "--device", "cpu", *options]
    estimated = json.loads(run(*words, "--dry-run", "--json").out)["memory_bytes"]
    # Read from inside: what a parent learns of its child begins with the memory of the parent itself.
    script = (
        "import sys; from protrna_cli.cli.main import run; code = run(sys.argv[1:]);"
        "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')));"
        "sys.exit(code)"
    )
    arguments = [sys.executable, "-c", script, *map(str, words), "-q"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert estimated == pytest.approx(int(done.stdout) * 1024, rel=0.2)


BAD = [
    (">b x\nAC1U\n", "residue 3: '1' is not an RNA or DNA letter; correct it"),
    (">c\n", "no residues; remove the record"),
    (">d\nAC-U\n", "'-' is not an RNA or DNA letter but a gap"),
    (">e\nACGUACGU\n((....))\n", "looks like dot-bracket structure"),
    (">f\nACGU>g\nGG\n", "a header inside a line"),
    (">h\0\nACGU\n", "a header with a NUL byte"),
    (">i\nACGU\n#comment\n", "a comment"),
    (">j\n" + 9 * "A" + "\n", "9 residues, longer than 8"),
    (">k\nNNNN\n", "'k' has no known residue"),
]
"""Records that are refused, and what is said of each."""


def test_a_dry_run_lists_every_bad_record(run: Run, fasta: Callable[[str], Path]) -> None:
    """Each of them, and no good one; a run stops at each of them."""
    rules = ["--model", TOY, "--max-length", 8, "--long", "error", "--skip-unknown"]
    good = [f">good{i}\nACGU\n" for i in range(len(BAD))]
    text = "".join(fine + bad for fine, (bad, _) in zip(good, BAD, strict=True))
    outcome = run("embed", fasta(text), "--dry-run", "--json", *rules)
    assert (outcome.code, outcome.out) == (65, "")
    *listed, last = outcome.err.splitlines()
    assert last == "protrna: error: 9 flaws in the input; correct each, or use an option that it names"
    for line, (_, words) in zip(listed, BAD, strict=True):
        assert line.startswith("protrna: error: ")
        assert words in line
    for bad, words in BAD:
        outcome = run("embed", fasta(bad), "-o", "-", *rules)
        assert (outcome.code, words in outcome.err, len(outcome.err.splitlines())) == (65, True, 1)
    path = fasta(text)
    path.write_text("".join(good))
    assert run("embed", path, "--dry-run", *rules).code == 0
    path.write_text("".join(bad for bad, _ in BAD))
    assert len(run("embed", path, "--dry-run", *rules).err.splitlines()) == len(BAD) + 1


def test_a_dry_run_lists_every_id_that_cannot_be_used(
    run: Run, fasta: Callable[[str], Path], tmp_path: Path
) -> None:
    source = fasta(">a\nACGU\n>b\nAC1U\n>a\nGG\n>\nGG\n>a\nGG\n")
    bed = tmp_path / "in.bed"
    bed.write_text("".join(f"{name}\t0\t2\tr\n" for name in "abzy"))
    words = ["embed", source, "--model", TOY, "--dry-run"]
    flat = run(*words, "-o", tmp_path / "out.h5").err.splitlines()
    for line, text in zip(
        flat,
        ["record 2", "record 3: the id 'a' repeats", "record 4: it has", "record 5: the id", "4 flaws"],
        strict=True,
    ):
        assert text in line
    regions = run(*words, "--regions", bed).err.splitlines()
    for line, text in zip(
        regions,
        [
            "record 2",
            "has the id 'a'",
            "has the id 'a'",
            "no record of the input has the id 'z'",
            "id 'y'",
            "5 ",
        ],
        strict=True,
    ):
        assert text in line


def test_json_needs_a_dry_run(tmp_path: Path, run: Run) -> None:
    outcome = run("embed", SAMPLE, "-o", tmp_path / "out.npy", "--model", TOY, "--json")
    assert (outcome.code, "--json needs --dry-run" in outcome.err) == (2, True)
