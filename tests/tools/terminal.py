"""Draw the picture of a terminal in the README, from real runs.

    python -m tests.tools.terminal sample_data/terminal.svg

Runs the commands on a pseudo-terminal of 100 columns, in a new folder, and draws what they print as SVG.
"""

from __future__ import annotations

import argparse
import os
import shlex
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tests.conftest import SAMPLE, on_a_terminal

COLUMNS = 100

COMMANDS = [
    "protrna embed rna_families.fa -o families.parquet --model demo",
    "protrna embed protein.fa -o protein.parquet --model demo",
]


def printed(command: str, folder: Path) -> str:
    """Run a command on a terminal; returns the last state of each line that it printed, with its colours."""
    _, shown = on_a_terminal(
        *shlex.split(command)[1:], columns=COLUMNS, first=f"import os; os.chdir({str(folder)!r})"
    )
    lines = shown.replace("\r\n", "\n").split("\n")
    return "\n".join(
        next((state for state in reversed(line.split("\r")) if state.strip()), "") for line in lines
    )


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.terminal", description=main.__doc__)
    parser.add_argument("svg", type=Path)
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / SAMPLE.name).write_text(SAMPLE.read_text())
        (folder / "protein.fa").write_text(
            ">ubiquitin\nMQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQ\n"
        )
        for command in COMMANDS:
            console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
            console.print(Text.from_ansi(printed(command, folder).rstrip() + "\n"))
    console.save_svg(str(parser.parse_args().svg), title="protrna")


if __name__ == "__main__":
    main()
