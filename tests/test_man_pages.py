"""The man pages in the wheel: one for each command, with every word of its help."""

from __future__ import annotations

import re
import shutil
import subprocess

import click
import pytest

from tests.conftest import ROOT
from tests.tools import man

if not (ROOT / ".github").exists():
    pytest.skip("the source distribution has no .github", allow_module_level=True)

CONTEXTS = {man.title(context): context for context in man.contexts()}
HINT = "a help text has changed: run python -m tests.tools.man"


def squeezed(text: str) -> str:
    """The words of a text, with a blank between them."""
    return " ".join(text.replace("\b", " ").split())


def test_every_command_has_a_page() -> None:
    assert len(CONTEXTS) > 10
    assert sorted(path.stem for path in man.FOLDER.iterdir()) == sorted(CONTEXTS), HINT


def test_an_image_and_an_installation_get_the_pages() -> None:
    [directory] = re.findall(r'^directory = "(.+?)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert man.FOLDER.relative_to(ROOT / directory).as_posix() == "share/man/man1"
    assert f"!{directory}\n" in (ROOT / ".dockerignore").read_text()


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_page_has_every_word_of_the_help_and_no_other_option(name: str) -> None:
    command = CONTEXTS[name].command
    page = (man.FOLDER / f"{name}.1").read_text(encoding="utf-8")
    plain = page.replace(r"\-", "-").replace(r"\&", "").replace(r"\e", "\\")
    shown = dict(re.findall(r"^\.TP\n\\fB(-.*?)\\fR\n(.*)", plain, re.MULTILINE))
    options = [each for each in command.get_params(CONTEXTS[name]) if isinstance(each, click.Option)]
    assert sorted(re.findall(r"-[-\w]+", " ".join(shown))) == sorted(
        word for option in options for word in option.opts if option.get_help_record(CONTEXTS[name])
    ), HINT
    for option in options:
        assert any(text.startswith(squeezed(option.help or "")) for text in map(squeezed, shown.values())), (
            HINT
        )
    text = squeezed(re.sub(r"^\.\w+", "", plain, flags=re.MULTILINE))
    for paragraph in [*(command.help or "").split("\n\n"), *(command.epilog or "").splitlines()[2:]]:
        assert squeezed(paragraph).removeprefix("More: ").rstrip(".") in text, HINT


@pytest.mark.parametrize("name", CONTEXTS)
def test_groff_shows_a_page_without_a_warning(name: str) -> None:
    groff = shutil.which("groff")
    if not groff:
        pytest.skip("groff is not installed")
    done = subprocess.run(
        [groff, "-man", "-ww", "-Tascii", man.FOLDER / f"{name}.1"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    shown = squeezed(re.sub(r"\x1b\[\d*m", "", done.stdout))
    for option in CONTEXTS[name].command.params:
        if isinstance(option, click.Option) and option.help:
            assert squeezed(option.help) in shown
