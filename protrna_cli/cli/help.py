"""`protrna help`."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from shutil import get_terminal_size

import click

from protrna_cli.cli.help_text import Command, epilog
from protrna_cli.cli.terminal import show
from protrna_cli.errors import UsageError
from protrna_cli.manual import TOPICS, page, summary

WIDTH = 100
"""Longest line of a page on a wide terminal: longer ones are hard to read."""


@click.command(
    "help",
    cls=Command,
    epilog=epilog("protrna help", "protrna help resume", "protrna help slurm > slurm.md", topics="start"),
)
@click.argument("topic", required=False, metavar="[TOPIC]")
def help_(topic: str | None) -> None:
    """Show the manual, which needs no network.

    Without TOPIC, lists the topics. A page is shown in your pager; in a pipe or a file it is plain Markdown.
    """
    if topic is None:
        width = max(map(len, TOPICS))
        for each in TOPICS:
            show(f"{each:<{width}}  {summary(each)}")
        click.echo("\nRead one with: protrna help TOPIC", err=True)
        return
    if topic not in TOPICS:
        near = get_close_matches(topic, TOPICS, 1)
        meant = f"do you mean {near[0]}? " if near else ""
        raise UsageError(f"the manual has no topic {topic!r}; {meant}protrna help lists them all")
    if sys.stdout.isatty():
        _show(page(topic))
    else:
        show(page(topic), end="")


def _show(text: str) -> None:
    """Render Markdown for the terminal, in the user's pager."""
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    with console.capture() as captured:
        console.print(Markdown(text, hyperlinks=False), width=min(get_terminal_size().columns, WIDTH))
    click.echo_via_pager(captured.get())
