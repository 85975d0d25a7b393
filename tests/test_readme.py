"""Run the commands and the Python of the README, and check its tables of options and exit codes."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Run

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Find the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def block(language: str, words: str) -> str:
    """Return the only fenced block of a language that contains these words."""
    [found] = [each for each in blocks(language) if words in each]
    return found


def expanded(word: str) -> list[str]:
    """Expand a word with `*` as a shell does."""
    return sorted(map(str, Path().glob(word))) if "*" in word else [word]


@pytest.fixture
def outputs(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every `protrna` line of the README in a new folder that has the sample data."""
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("protrna ")]
    assert len(lines) == 18
    for line in lines:
        words = [each for word in shlex.split(line)[1:] for each in expanded(word)]
        assert run(*words).code == 0


@pytest.mark.usefixtures("outputs")
def test_the_commands_and_the_python_run() -> None:
    names: dict[str, Any] = {}
    for block in blocks("python"):
        exec(block, names)
    assert names["matrix"].shape == (46, 320)
    assert names["trna"].shape == (320,)
    assert names["results"]["attentions"].shape == (2, 6, 20, 25, 25)
    assert names["summary"].n_records == 46


ODD_IDS = ["007", "NA", "1e5", "null", "nan", "True", "0x1F", "1_000", "-", "None", "2024-01-01"]


def test_the_lines_that_read_an_index_keep_every_id(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.fa").write_text("".join(f">{name}\nACGU\n" for name in ODD_IDS))
    for name, kind in (("families.npy", []), ("residues.npy", ["--per-token"])):
        assert run("embed", "in.fa", "-o", name, "--model", "demo", *kind).code == 0
    lines = block("python", "read_csv").splitlines()
    names: dict[str, Any] = {}
    exec("\n".join(line for line in lines if line.startswith(("import pandas", "text ="))), names)
    first, second = (line for line in lines if line.startswith("index = "))
    exec(first, names)
    assert names["index"]["id"].tolist() == ODD_IDS
    assert names["index"]["description"].tolist() == [""] * len(ODD_IDS)
    exec(second, names)
    assert names["index"].index.tolist() == ODD_IDS


def test_the_readme_lists_every_option_and_no_other(run: Run) -> None:
    table = README.split("## `protrna embed INPUT... -o OUT`")[1].split("### What is read")[0]
    documented = set(re.findall(r"^\| (?:`-\w`, )?`(--[a-z0-9-]+)", table, re.MULTILINE))
    shown = set(re.findall(r"^  (?:-\w, )?(--[a-z0-9-]+)", run("embed", "--help").out, re.MULTILINE))
    assert documented == shown - {"--help"}


def test_the_readme_lists_the_exit_codes() -> None:
    from protrna_cli import errors

    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not errors.ProtrnaError
    ]
    listed = README.split("### Exit codes")[1].split("## Outputs")[0]
    for kind in kinds:
        assert re.search(rf"\b{kind.exit_code}\b", listed), kind
