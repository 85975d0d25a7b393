"""How help looks, and the commands that tell about protrna and this machine: help, cite and doctor.

Options and commands are in groups, one line each where they fit, coloured on a terminal.

click alone does it. rich-click draws the same, but to import it takes longer than all the rest of `--help`.
"""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches
from shutil import get_terminal_size
from typing import Any

import click

from protrna_cli.cli.messages import is_verbose, show, verbosity
from protrna_cli.cli.options import as_json, options_of
from protrna_cli.errors import NotFinite, UsageError
from protrna_cli.libraries import quiet_libraries
from protrna_cli.manual import TOPICS, page, summary
from protrna_cli.run.options import EmbedOptions
from protrna_cli.text import version

WIDTH = 100
"""Longest line of a help text or a page on a wide terminal: longer ones are hard to read."""

WRONG_NUMBERS = NotFinite.exit_code
"""Exit code for wrong numbers, the same as for an embedding that is not finite."""

TEXT = """ProtRNA, the model:
  Zhang R, Ma B, Xu G, Ma J. ProtRNA: A protein-derived RNA language model by cross-modality
  transfer learning. Cell Systems (2025). https://doi.org/10.1016/j.cels.2025.101371

ESM-2, the protein model that it continues:
  Lin Z, Akin H, Rao R, et al. Evolutionary-scale prediction of atomic-level protein structure with
  a language model. Science 379, 1123-1130 (2023). https://doi.org/10.1126/science.ade2574

protrna, this tool:
  protrna-cli {version}: RNA sequences to ProtRNA embeddings."""

BIBTEX = """@article{{zhang2025protrna,
  title   = {{{{ProtRNA}}: A protein-derived {{RNA}} language model by cross-modality transfer learning}},
  author  = {{Zhang, Ruoxi and Ma, Ben and Xu, Gang and Ma, Jianpeng}},
  journal = {{Cell Systems}},
  year    = {{2025}},
  doi     = {{10.1016/j.cels.2025.101371}}
}}

@article{{lin2023esm2,
  title   = {{Evolutionary-scale prediction of atomic-level protein structure with a language model}},
  author  = {{Lin, Zeming and Akin, Halil and Rao, Roshan and others}},
  journal = {{Science}},
  volume  = {{379}},
  pages   = {{1123--1130}},
  year    = {{2023}},
  doi     = {{10.1126/science.ade2574}}
}}

@software{{protrna_cli,
  title   = {{protrna-cli: {{RNA}} sequences to {{ProtRNA}} embeddings}},
  version = {{{version}}}
}}"""

Panels = dict[str, list[str]]
"""Titles of groups, and the names of their options or commands, most used first."""


class Formatter(click.HelpFormatter):
    """Writes titles in bold and names in colour; `click.echo` removes both where no terminal reads them."""

    def write_heading(self, heading: str) -> None:
        super().write_heading(_styled(heading, bold=True))

    def write_table(self, rows: list[tuple[str, str]]) -> None:
        """Write names and what they mean; a name that takes nearly half of a line has one for itself."""
        self.write_dl([(_styled(name, fg="cyan"), text) for name, text in rows], int(self.width * 0.45))


class Context(click.Context):
    """The context of a command whose help is written by `Formatter`."""

    formatter_class = Formatter


class _Showing(click.Command):
    """Prints its help as the results of commands are printed, in groups; what is in none is shown last."""

    context_class = Context

    def __init__(self, *arguments: Any, panels: Panels | None = None, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.panels = panels or {}

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = _show_help
        return option


def _show_help(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        show(ctx.get_help())
        ctx.exit()


class Command(_Showing):
    """A command with its options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, group by group."""
        rows = {
            parameter.opts[-1]: row
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option) and (row := parameter.get_help_record(ctx)) is not None
        }
        _write_panels(formatter, self.panels, rows, "Options")


class Group(_Showing, click.Group):
    """A group of commands, shown in groups."""

    command_class = Command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, and then the options, which are the less important here."""
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, group by group, each with the whole first line of its help."""
        rows = {
            name: (name, (command.help or "").partition("\n")[0]) for name, command in self.commands.items()
        }
        _write_panels(formatter, self.panels, rows, "Commands")


def epilog(*examples: str, topics: str = "") -> str:
    """Make the end of a help text: examples, and the topics of the manual that say more."""
    title = "Example:" if len(examples) == 1 else "Examples:"
    lines = "\n".join(["\b", title, *(f"  {example}" for example in examples)])  # \b: click keeps these lines
    return f"{lines}\n\nMore: protrna help {topics}" if topics else lines


def _write_panels(
    formatter: click.HelpFormatter, panels: Panels, rows: dict[str, tuple[str, str]], rest: str
) -> None:
    """Write a table for each group, and one titled `rest` for rows that are in none."""
    assert isinstance(formatter, Formatter)
    left = [name for name in rows if not any(name in names for names in panels.values())]
    for title, names in {**panels, rest: left}.items():
        if names:
            with formatter.section(title):
                formatter.write_table([rows[name] for name in names])


def _styled(text: str, **style: Any) -> str:
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)


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
        for name in TOPICS:
            show(f"{name:<{width}}  {summary(name)}")
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


@click.command(
    cls=Command, epilog=epilog("protrna cite", "protrna cite --bibtex >> paper.bib", topics="citing")
)
@click.option("--bibtex", is_flag=True, help="Print BibTeX.")
def cite(bibtex: bool) -> None:
    """Print what to cite: the model, ESM-2, this tool."""
    show((BIBTEX if bibtex else TEXT).format(version=version()))


@click.command(
    cls=Command, epilog=epilog("protrna doctor", "protrna doctor --model demo --json", topics="speed")
)
@options_of(EmbedOptions, "model", "weights_dir", "device", "threads")
@as_json
@verbosity
def doctor(model: str, weights_dir: str | None, device: str, threads: int | None, as_json: bool) -> int:
    """Check this machine and its numbers.

    If the published weights are missing, the demo model is tested.
    Shows what TensorFlow sees, how fast it is and whether the numbers are right. Takes a few seconds, or a
    minute with the published weights. Exit code 70 means that numbers are wrong.
    """
    with quiet_libraries(is_verbose()):
        from protrna_cli.run.doctor import examine

        diagnosis = examine(model, weights_dir, device, threads)
    show(diagnosis.json() if as_json else diagnosis.text())
    return 0 if diagnosis.is_sound else WRONG_NUMBERS
