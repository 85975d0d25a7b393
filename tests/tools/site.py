"""Build the site: the pages of the manual, the README as its front, and the Python reference.

    python -m tests.tools.site [FOLDER]

`.github/mkdocs.yml` is its configuration, and calls the functions `on_...` below. A broken link is an error.
The programs that this needs come with the extra `site`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from griffe import DocstringSectionParameters, Extension, Function

import protrna_cli
from protrna_cli import errors
from protrna_cli.manual import TOPICS

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / ".github" / "mkdocs.yml"
FOLDER = ROOT / "build" / "site"

BAR = "\ue000"
"""Stands for a bar in the code of a table: Python-Markdown would show the backslash that GitHub asks for."""

STYLE = """\
.md-grid { max-width: 68rem; } /* the longest line of a command fits */
@media (min-width: 60em) { .md-typeset :is(p, li) > code { white-space: nowrap; } } /* no break after -- */
thead:not(:has(th:not(:empty))) { display: none; } /* a table whose head is empty, as GitHub needs one */
"""


def reference() -> str:
    """Write the page that has the docstring of every public name: functions, then classes, then errors."""
    names = [name for name in protrna_cli.__all__ if name != "__version__"]
    names.sort(key=lambda name: (name[0].isupper(), hasattr(errors, name)))
    blocks = "\n".join(f"::: protrna_cli.{name}\n" for name in names)
    return f"# Reference\n\nEvery name that `protrna_cli` has.\n\n{blocks}"


class OwnTypes(Extension):
    """Shows parameters that share a paragraph of a docstring with the types and defaults that each has."""

    def on_function(self, *, func: Function, **_: Any) -> None:
        parent = func.parent.name if func.parent else ""
        public = {func.name, parent} & set(protrna_cli.__all__)
        for section in func.docstring.parsed if public and func.docstring else ():
            for shown in section.value if isinstance(section, DocstringSectionParameters) else ():
                with suppress(KeyError):
                    declared = func.parameters[shown.name]
                    shown.annotation, shown.value = declared.annotation, declared.default


def on_config(config: MkDocsConfig) -> None:
    """Link to the repository, whose address is in one place."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    [config.repo_url] = re.findall(r'^Source = "(.+?)"', text, re.MULTILINE)
    config.repo_name = "source"


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add what is not in the folder of the manual: front page, changes, reference, style and pictures."""
    from mkdocs.structure.files import File

    pages = {
        "index.md": (ROOT / "README.md").read_text(encoding="utf-8"),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "reference.md": reference(),
        "site.css": STYLE,
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    pictures = [path for path in (ROOT / "sample_data").iterdir() if path.suffix in (".png", ".svg")]
    for picture in pictures:
        files.append(File.generated(config, f"sample_data/{picture.name}", abs_src_path=str(picture)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make the links of a page of the repository those of the site, and `protrna help TOPIC` a link."""
    text = re.sub(r"\]\((?:protrna_cli/manual/|\.\./\.\./(?=sample_data/))", "](", markdown)
    text = re.sub(r"^```(\w+) \w+$", r"```\1", text, flags=re.MULTILINE)
    text = re.sub(r"^\|.*$", lambda row: row[0].replace("\\|", BAR), text, flags=re.MULTILINE)
    topics = "|".join(TOPICS)
    return re.sub(rf"`protrna help ({topics})`", r"[`protrna help \1`](\1.md)", text)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the bars back."""
    return html.replace(BAR, "|")


def build(folder: Path = FOLDER) -> None:
    """Build the site into a folder."""
    words = [sys.executable, "-m", "mkdocs", "build", "--strict"]  # with --quiet it would not see warnings
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [*words, "-f", str(CONFIG), "-d", str(folder.resolve())]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def main() -> None:
    """Build the site."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.site", description=main.__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="(default: %(default)s)")
    build(parser.parse_args().folder)


if __name__ == "__main__":
    main()
