"""`--help`, `protrna help`, `protrna cite`, and colour."""

import re
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from protrna_cli.cli.help import Command, Group
from protrna_cli.cli.main import protrna
from protrna_cli.manual import TOPICS, page, summary
from protrna_cli.text import version
from tests.conftest import LIGHT, ROOT, TOY, Outcome, Run, on_a_terminal

ESCAPE = "\x1b["


def walk(command: click.Command, *words: str) -> list[tuple[list[str], click.Command]]:
    """List a command and all below it, each with the words that call it."""
    below = command.commands.items() if isinstance(command, click.Group) else ()
    return [(list(words), command), *(found for name, each in below for found in walk(each, *words, name))]


COMMANDS = walk(protrna)
every_command = pytest.mark.parametrize(
    ("words", "command"), COMMANDS, ids=[" ".join(words) or "protrna" for words, _ in COMMANDS]
)


@every_command
@pytest.mark.parametrize("columns", [80, 100, 120])
def test_help_fits_the_terminal_and_cuts_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: list[str], command: click.Command, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = run(*words, "--help").out
    assert ESCAPE not in shown  # this is no terminal
    body, _, ends = shown.partition("\n  Example")
    assert max(map(len, body.splitlines())) <= min(columns, 100)
    assert "…" not in shown
    text = " ".join(shown.split())
    assert " ".join((command.help or "").split()) in text
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert " ".join((parameter.help or "").split()) in text
            assert all(name in body for name in parameter.opts)
    assert ends.strip()


@every_command
def test_every_topic_that_help_names_exists(run: Run, words: list[str], command: click.Command) -> None:
    (named,) = re.findall(r"^  More: protrna help (.+)$", run(*words, "--help").out, re.MULTILINE)
    assert set(named.split(", ")) <= set(TOPICS)


@every_command
def test_groups_name_what_is_there_and_each_once(words: list[str], command: click.Command) -> None:
    assert isinstance(command, Command | Group)
    named = [name for names in command.panels.values() for name in names]
    assert len(named) == len(set(named))
    if isinstance(command, Group) and named:
        assert set(named) == set(command.commands)
    elif named:
        options = {each.opts[-1] for each in command.params if isinstance(each, click.Option)}
        assert set(named) == options | {"--help"}


def test_a_command_in_no_group_is_shown_last(run: Run) -> None:
    shown = run("weights", "--help").out
    assert re.search(r"^Commands:\n  fetch  .*\n(?:.*\n)*\nOptions:\n  -h, --help", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("first", "coloured"), [("pass", True), ("import os; os.environ['NO_COLOR']='1'", False)]
)
def test_help_and_errors_are_coloured_on_a_terminal_unless_no_color(
    tmp_path: Path, first: str, coloured: bool
) -> None:
    code, shown = on_a_terminal("--help", columns=80, first=first)
    assert (code, f"{ESCAPE}1mMake" in shown, ESCAPE in shown) == (0, coloured, coloured)
    code, shown = on_a_terminal("info", tmp_path / "missing.npy", columns=80, first=first)
    assert (code, ESCAPE in shown) == (66, coloured)
    assert "error" in shown


def test_the_next_command_is_suggested_on_a_terminal_only(
    tmp_path: Path, run: Run, fasta: Callable[[str], Path]
) -> None:
    target = tmp_path / "out.parquet"
    words = ["embed", fasta(">a\nACGU\n>b\nGG\n"), "-o", target, "--model", TOY, "--overwrite"]
    code, shown = on_a_terminal(*words, columns=300, first=LIGHT)
    assert code == 0
    (command,) = re.findall(r"next\S*: protrna (.+?)\r\n", shown)
    assert run(*command.split()).out.startswith(f"{target}: 2 rows")
    assert "next:" not in run(*words).err


def test_the_topics_are_listed_with_their_summaries(run: Run) -> None:
    outcome = run("help")
    assert outcome.code == 0
    assert [line.split(None, 1) for line in outcome.out.splitlines() if line] == [
        [topic, summary(topic)] for topic in TOPICS
    ]


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_is_plain_markdown_in_a_pipe(run: Run, topic: str) -> None:
    assert run("help", topic) == Outcome(0, page(topic), "")


def test_a_page_is_rendered_on_a_terminal() -> None:
    code, shown = on_a_terminal("help", "resume", columns=70)
    assert code == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r", "").splitlines()
    assert max(map(len, lines)) <= 70
    assert "```" not in shown and "\n# " not in shown
    sentence = " ".join(summary("resume").split())
    assert sentence in " ".join(" ".join(lines).split())


@pytest.mark.parametrize(("word", "meant"), [("slrum", "do you mean slurm? "), ("zebra", "")])
def test_an_unknown_topic_is_a_usage_error(run: Run, word: str, meant: str) -> None:
    message = f"protrna: error: the manual has no topic '{word}'; {meant}protrna help lists them all\n"
    assert run("help", word) == Outcome(2, "", message)


def test_what_to_cite_is_the_same_everywhere(run: Run) -> None:
    text, bibtex = run("cite").out, run("cite", "--bibtex").out
    cff = (ROOT / "CITATION.cff").read_text()
    for work in ("10.1016/j.cels.2025.101371", "10.1126/science.ade2574"):
        assert all(work in each for each in (text, bibtex, cff))
    for family in ("Zhang", "Ma", "Xu", "Lin"):
        assert all(family in each for each in (text, bibtex, cff))
    assert version() in text and version() in bibtex
    assert re.search(rf"^version: {re.escape(version())}$", cff, re.MULTILINE)
    assert bibtex.count("{") == bibtex.count("}")
    assert re.findall(r"^@(\w+)\{\w+,$", bibtex, re.MULTILINE) == ["article", "article", "software"]
