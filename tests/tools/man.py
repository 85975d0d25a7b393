"""Write the man pages, from the help texts of the commands and the table of exit codes.

    python -m tests.tools.man

The wheel installs them (`[tool.flit.external-data]` in `pyproject.toml`), for `man protrna-embed`.
click-man would write them too, but loses texts that begin with a dot, the groups of options and the examples.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import click

from protrna_cli import manual
from protrna_cli.cli.main import protrna

FOLDER = Path(__file__).parents[2] / ".github" / "man" / "share" / "man" / "man1"


def escaped(text: str) -> str:
    """Write text so that roff shows it as it is: no escapes, no requests, and hyphens that can be copied."""
    return re.sub(r"^(?=[.'])", r"\\&", text.replace("\\", r"\e").replace("-", r"\-"), flags=re.MULTILINE)


def title(context: click.Context) -> str:
    """The name of the page of a command."""
    return context.command_path.replace(" ", "-")


def items(rows: list[tuple[str, str]]) -> str:
    """A list of names, in bold, and what they mean."""
    return "".join(f".TP\n\\fB{escaped(name)}\\fR\n{escaped(text)}\n" for name, text in rows)


def paragraphs(text: str) -> str:
    """Paragraphs of a help text."""
    return "".join(f".PP\n{escaped(' '.join(part.split()))}\n" for part in text.split("\n\n") if part.strip())


def options(context: click.Context) -> str:
    """The options of a command in the groups in which `--help` shows them."""
    command = context.command
    left = {
        parameter.opts[-1]: row
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option) and (row := parameter.get_help_record(context))
    }
    panels = {} if isinstance(command, click.Group) else getattr(command, "panels", {})
    groups = {name: [left.pop(option) for option in names] for name, names in panels.items()}
    groups["Other" if groups else ""] = list(left.values())
    shown = (
        (f".SS {escaped(name)}\n" if name else "") + items(rows) for name, rows in groups.items() if rows
    )
    return ".SH OPTIONS\n" + "".join(shown)


def ending(context: click.Context) -> str:
    """The examples, the topics of the manual, and the pages beside this one."""
    examples, _, topics = (context.command.epilog or "").replace("\b\n", "").partition("More: ")
    lines = [line.strip() for line in examples.splitlines()[1:] if line.strip()]
    text = ".SH EXAMPLES\n.nf\n" + "".join(f"{escaped(line)}\n" for line in lines) + ".fi\n" if lines else ""
    others = [title(context.parent)] if context.parent else []
    others += [f"{title(context)}-{name}" for name in getattr(context.command, "commands", {})]
    text += ".SH SEE ALSO\n" + ",\n".join(f".BR {escaped(name)} (1)" for name in others).replace(
        ",\n", " ,\n"
    )
    return text + "\n" + paragraphs(f"The manual: {topics}." if topics else "")


def page(context: click.Context) -> str:
    """The page of a command."""
    command = context.command
    summary, _, rest = (command.help or "").partition("\n")
    usage = " ".join(command.collect_usage_pieces(context))
    text = f'.TH {escaped(title(context).upper())} 1 "" protrna "protrna manual"\n'
    text += ".nh\n.ad l\n"  # words are not hyphenated, so that they can be searched
    text += f".SH NAME\n{escaped(title(context))} \\- {escaped(summary.rstrip('.'))}\n"
    text += f".SH SYNOPSIS\n\\fB{escaped(context.command_path)}\\fR {escaped(usage)}\n"
    text += f".SH DESCRIPTION\n{paragraphs(rest)}" if rest.strip() else ""
    if isinstance(command, click.Group):
        rows = [(name, (each.help or "").partition("\n")[0]) for name, each in command.commands.items()]
        text += ".SH COMMANDS\n" + items(rows)
    text += options(context)
    if context.parent is None:
        codes = re.findall(r"^\| (\d+) \| (.+) \|$", manual.page("exit-codes"), re.MULTILINE)
        text += ".SH EXIT STATUS\n" + items([(code, text.replace("`", "")) for code, text in codes])
    return text + ending(context)


def contexts(
    command: click.Command = protrna, name: str = "protrna", parent: click.Context | None = None
) -> Iterator[click.Context]:
    """Every command with its place."""
    context = command.context_class(command, parent, info_name=name, **command.context_settings)
    yield context
    for name, each in getattr(command, "commands", {}).items():
        yield from contexts(each, name, context)


def main() -> None:
    """Write the man pages."""
    argparse.ArgumentParser(prog="python -m tests.tools.man", description=main.__doc__).parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.glob("*.1"):
        path.unlink()
    for context in contexts():
        (FOLDER / f"{title(context)}.1").write_text(page(context), encoding="utf-8")


if __name__ == "__main__":
    main()
