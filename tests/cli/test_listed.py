"""Inputs named in a list: the same run as with their names on the command line, and errors that name them."""

import hashlib
import io
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from protrna_cli.fasta.census import MOST_NAMED, take_census
from protrna_cli.fasta.sources import open_sources
from protrna_cli.plan.rules import DEFAULT_RULES
from tests.conftest import ROOT, TOY, Run, install_command
from tests.test_manual import block

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with two inputs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.fa").write_text(">a\nACGU\n")
    (tmp_path / "b c.fa").write_text(">b\nGGCC\n")
    return tmp_path


def records(run: Run, *words: object) -> int:
    outcome = run("embed", *words, "--dry-run", "--json", "--model", TOY)
    assert outcome.code == 0, outcome.err
    estimate = json.loads(outcome.out)
    assert len(estimate["inputs"]) == estimate["records"]
    return int(estimate["records"])


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (b"a.fa\nb c.fa\n", ()),
        (b"a.fa\n\nb c.fa", ()),
        (b"\xef\xbb\xbfa.fa\r\nb c.fa\r\n", ()),
        (b"a.fa\0b c.fa\0", ("-0",)),
        (b"a.fa\0b c.fa", ("--null",)),
    ],
    ids=["lines", "blank line", "byte-order mark and carriage returns", "NUL", "no NUL at the end"],
)
def test_a_list_is_read(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, options: tuple[str, ...]
) -> None:
    (folder / "list").write_bytes(content)
    assert records(run, "--files-from", "list", *options) == 2
    assert records(run, "a.fa", "--files-from", "list", *options) == 3
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert records(run, "--files-from", "-", *options) == 2


def test_a_name_may_have_a_newline_and_any_bytes(run: Run, folder: Path) -> None:
    name = os.fsdecode(b"x\n\xff.fa")
    (folder / name).write_text(">x\nACGU\n")
    (folder / "list").write_bytes(os.fsencode(name) + b"\0")
    assert records(run, "--files-from", "list", "-0") == 1


def test_every_command_with_several_paths_takes_one(run: Run, folder: Path) -> None:
    (folder / "list").write_text("a.fa\nb c.fa\n")
    (folder / "parts").write_text("out.2-of-2.npy\nout.1-of-2.npy\n")
    listed = ("--files-from", "list")
    for shard in ("1/2", "2/2"):
        made = run("embed", *listed, "-o", "out.npy", "--model", TOY, "--shard", shard)
        assert made.code == 0, made.err
    assert run("merge", "--files-from", "parts", "-o", "out.npy").code == 0
    assert run("verify", "out.npy", *listed).code == 0
    assert run("verify", "out.npy", "b c.fa", *listed).code == 65
    assert run("embed", "a.fa", "b c.fa", "-o", "out.npy", "--model", TOY, "--resume").code == 0


@pytest.mark.parametrize(
    ("content", "options", "code", "told"),
    [
        (b"", (), 65, "list: an empty list"),
        (b"\n\r\n", (), 65, "list: an empty list"),
        (b"a.fa\nnone.fa\n", (), 66, "none.fa: cannot be read (No such file or directory)"),
        (b"a.fa\n./list\n", (), 65, "list: path 2 is the list itself"),
        (b"a.fa\0b c.fa\0", (), 65, "list: has NUL bytes; use -0"),
        (b"a.fa\nb c.fa\n", ("-0",), 65, "list: its paths end with newlines, not NUL bytes; leave -0 out"),
        (b"a.fa\n.\n", (), 66, ".: a folder"),
    ],
    ids=["empty", "only line ends", "missing file", "itself", "NUL", "no NUL", "folder"],
)
def test_a_bad_list_is_told(
    run: Run, folder: Path, content: bytes, options: tuple[str, ...], code: int, told: str
) -> None:
    (folder / "list").write_bytes(content)
    outcome = run("embed", "--files-from", "list", *options, "--dry-run", "--model", TOY)
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.startswith(f"protrna: error: {told}")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ((), 2, "INPUT is missing"),
        (("a.fa", "-0"), 2, "give --files-from LIST as well"),
        (("--files-from", "none"), 66, "none: the list cannot be read (No such file or directory)"),
        (("--files-from", "."), 66, ".: the list cannot be read (Is a directory)"),
    ],
)
def test_what_is_missing_is_told(run: Run, words: tuple[str, ...], code: int, told: str) -> None:
    outcome = run("embed", *words, "--dry-run", "--model", TOY)
    assert outcome.code == code
    assert told in outcome.err


def test_standard_input_is_read_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, listed in ((["-"], b"a.fa\n"), ([], b"a.fa\n-\n")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(listed)))
        outcome = run("embed", *words, "--files-from", "-", "--dry-run", "--model", TOY)
        assert outcome.code == 2
        assert "can be read only once" in outcome.err


def test_many_inputs_are_one_entry_of_the_provenance(run: Run, folder: Path) -> None:
    names = [f"{i}.fa" for i in range(MOST_NAMED + 1)]
    for i, name in enumerate(names):
        (folder / name).write_text(f">{i}\n{'ACGU'[i % 4] * (i % 5 + 1)}\n")
    hashes = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]
    (folder / "list").write_text("\n".join(names))
    assert run("embed", "--files-from", "list", "-o", "out.npy", "--model", TOY).code == 0
    [entry] = json.loads((folder / "out.npy.meta.json").read_text())["inputs"]
    lines = "".join(f"{sha256}\n" for sha256 in hashes)
    assert entry == {"name": "101 files", "sha256": hashlib.sha256(lines.encode()).hexdigest(), "files": 101}
    assert "input" in run("info", "out.npy").out

    assert run("verify", "out.npy", "--files-from", "list").code == 0
    (folder / "list").write_text("\n".join(names[1:] + names[:1]))
    assert run("verify", "out.npy", "--files-from", "list").code == 65


def test_up_to_a_hundred_inputs_are_named(folder: Path) -> None:
    with open_sources(["a.fa"] * MOST_NAMED) as sources:
        census = take_census(sources, DEFAULT_RULES).census
    assert census.recorded_inputs == census.inputs
    assert [each["name"] for each in census.inputs] == ["a.fa"] * MOST_NAMED


@pytest.mark.slow
def test_the_lines_of_the_manual_make_and_check_an_output(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "sample_data").symlink_to(ROOT / "sample_data")
    install_command(folder / "bin", monkeypatch)
    lines = f"set -o pipefail -e\n{block('bash', 'list.txt')}".replace(
        "find sample_data", "find sample_data/"
    )
    done = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.endswith("protrna: listed.parquet: complete\n")
