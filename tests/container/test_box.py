"""Runs as in a container: no network, no home folder, an unknown user, everything else read-only."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from protrna_cli import EmbedOptions, embed_fasta, read_embeddings
from tests.conftest import ROOT, SAMPLE, TOY, Outcome
from tests.tools.cases import slow_except
from tests.tools.runs import command

FASTA = ROOT / "sample_data" / "readme.fa"
NAMESPACES = ["unshare", "--user", "--map-root-user", "--net", "--mount"]

Box = Callable[..., Outcome]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The only folder that a command in the box can write, besides TMPDIR."""
    for name in ("work", "tmp"):
        (tmp_path / name).mkdir()
    return tmp_path / "work"


@pytest.fixture
def box(work: Path) -> Box:
    """Run a command in the box, with no environment but PYTHONPATH, TMPDIR and these variables."""

    def run(words: list[str], stdin: bytes = b"", **variables: str) -> Outcome:
        environment = {"PYTHONPATH": str(ROOT), "TMPDIR": str(work.parent / "tmp")} | variables
        script = ROOT / "tests" / "container" / "box.sh"
        set_ = ["env", "-i", *(f"{name}={text}" for name, text in environment.items())]
        done = subprocess.run(
            [*NAMESPACES, str(script), str(work.parent), *set_, *words],
            input=stdin,
            capture_output=True,
            timeout=300,
        )
        return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())

    try:
        possible = run(["true"])
    except FileNotFoundError:
        pytest.skip("needs unshare: Debian's util-linux")
    if possible.code:
        pytest.skip(f"this user may not make namespaces here ({possible.err.strip()})")
    return run


def test_the_box_is_closed(box: Box, work: Path) -> None:
    """What the other tests rest on."""
    script = 'id -u; echo "${HOME-none}"; grep -c : /proc/net/dev; whoami || echo > /tmp/new'
    outcome = box(["sh", "-c", script])
    assert outcome.out.split() == ["12345", "none", "1"]  # the one device is lo
    assert "cannot find name for user ID 12345" in outcome.err
    assert "Read-only file system" in outcome.err
    assert box(["sh", "-c", "echo > here"]).code == 0
    assert (work / "here").exists()


@pytest.mark.slow
def test_embed_merge_and_verify_need_nothing_but_the_work_folder(box: Box, work: Path) -> None:
    for part in ("1/2", "2/2"):
        outcome = box(command("embed", FASTA, "-o", "out.parquet", "--model", "demo", "--shard", part))
        assert outcome.code == 0, outcome.err
        assert len(outcome.err.splitlines()) == 2  # the note on the demo model, and the summary
    parts = [f"out.{i}-of-2.parquet" for i in (1, 2)]
    assert box(command("merge", *parts, "-o", "out.parquet")).code == 0
    verified = box(command("verify", "out.parquet", FASTA))
    assert (verified.code, verified.err) == (0, "protrna: out.parquet: complete\n")
    assert sorted(path.name for path in work.iterdir()) == [*parts, "out.parquet"]  # no folder named `~`

    outside = work.parent / "outside.parquet"
    embed_fasta(FASTA, outside, EmbedOptions(model="demo"))
    merged, alone = (read_embeddings(path) for path in (work / "out.parquet", outside))
    assert merged.ids == alone.ids
    np.testing.assert_allclose(merged.vectors, alone.vectors, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_read_only_folder_of_weights_costs_no_word(box: Box, work: Path) -> None:
    """Neither the checkpoint's hash nor a copy to map can be kept there."""
    small = "from protrna_cli.weights import mapped; mapped.SMALLEST = 0"
    words = command("embed", FASTA, "-o", "out.npy", "--model", TOY, first=small)
    outcome = box(words, PROTRNA_HOME=str(TOY.parent))
    assert outcome.code == 0
    [summary] = outcome.err.splitlines()
    assert summary.endswith(": out.npy")
    assert not (TOY.parent / "trusted.json").exists()


@pytest.mark.parametrize(
    "words",
    [("embed", FASTA, "-o", "out.npy"), ("weights", "fetch"), ("weights", "path"), ("weights", "list")],
)
def test_without_a_home_folder_the_published_weights_need_one_named(box: Box, words: tuple[str, ...]) -> None:
    outcome = box(command(*words))
    assert outcome.code == 69
    [line] = outcome.err.splitlines()
    assert "this user has no home folder" in line
    assert "set PROTRNA_HOME or --weights-dir" in line


def test_a_home_folder_that_is_not_there_cannot_take_the_weights(box: Box) -> None:
    outcome = box(command("weights", "fetch"), HOME="/nonexistent")
    assert outcome.code == 73
    [line] = outcome.err.splitlines()
    assert "/nonexistent/.cache/protrna: cannot be created" in line
    assert "choose another folder with --weights-dir or PROTRNA_HOME" in line


@pytest.mark.parametrize("size", [(8 << 20) + 100, 9 << 20])
def test_standard_input_that_does_not_fit_into_tmpdir(box: Box, size: int) -> None:
    """By so little that the rest waits in a buffer, or by more."""
    source = b">large\n".ljust(size, b"A")
    outcome = box(command("embed", "-", "-o", "out.npy", "--model", "demo"), source)
    assert outcome.code == 74
    assert "<stdin>: cannot be copied to" in outcome.err
    assert "No space left on device); free space there or set TMPDIR" in outcome.err


@pytest.mark.parametrize("inputs", ["-", str(FASTA)])
def test_without_any_folder_for_temporary_files(box: Box, work: Path, inputs: str) -> None:
    """Standard input is copied to one, and TensorFlow needs one to be imported."""
    words = command("embed", inputs, "-o", work / "out.npy", "--model", "demo")
    outcome = box(["sh", "-c", 'cd /; exec "$@"', "-", *words], FASTA.read_bytes(), TMPDIR="/nonexistent")
    assert outcome.code == 74
    assert outcome.err.splitlines()[1:] == [
        "protrna: error: no folder for temporary files can be written; set TMPDIR to one that can"
    ]


@pytest.mark.parametrize(
    ("picture", "home"),
    slow_except(
        [("map.png", {"HOME": "/nonexistent"})],
        [("map.html", {}), ("map.png", {}), ("map.png", {"HOME": "/nonexistent"})],
    ),
)
def test_a_picture_needs_no_home_folder(box: Box, work: Path, home: dict[str, str], picture: str) -> None:
    pytest.importorskip("bokeh")
    pytest.importorskip("matplotlib")
    source = ROOT / "tests" / "golden" / "outputs-0.1.parquet"
    outcome = box(command("map", source, "-o", picture, "--method", "pca"), **home)
    assert outcome.code == 0, outcome.err
    assert [path.name for path in work.iterdir()] == [picture]
    assert not list((work.parent / "tmp").iterdir())


@pytest.mark.slow(seconds=30)
def test_umap_needs_no_home_folder(box: Box, work: Path) -> None:
    """Numba compiles anew what it cannot find compiled; unoptimised, which takes less time."""
    pytest.importorskip("umap")
    source = work.parent / "source.parquet"
    embed_fasta(SAMPLE, source, EmbedOptions(model="demo"))
    outcome = box(command("map", source, "-o", "map.html", "--method", "umap"), NUMBA_OPT="0")
    assert outcome.code == 0, outcome.err
    assert [path.name for path in work.iterdir()] == ["map.html"]


@pytest.mark.slow
def test_numba_finds_a_folder_where_the_home_folder_does_not_exist(box: Box, work: Path) -> None:
    """It looks for one when a module like those of UMAP is imported."""
    pytest.importorskip("numba")
    lines = (
        "from numba import njit\n@njit(cache=True)\ndef twice(number): return 2 * number\nprint(twice(21))"
    )
    (work.parent / "compiled.py").write_text(lines)
    path = f"import sys; sys.path.insert(0, {str(work.parent)!r})"
    home = "from protrna_cli.libraries import writable_home"
    scripts = f"{path}\nimport compiled", f"{path}\n{home}\nwith writable_home(): import compiled"
    without, outcome = (box([sys.executable, "-c", script], HOME="/nonexistent") for script in scripts)
    assert "no locator available" in without.err
    assert (outcome.code, outcome.out) == (0, "42\n"), outcome.err
    assert not list(work.iterdir())
