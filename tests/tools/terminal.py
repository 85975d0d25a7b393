"""Draw the picture of a terminal in the README, from real runs.

    python -m tests.tools.terminal sample_data/terminal.svg

Runs the commands on a pseudo-terminal of 100 columns, in a new folder, and draws what they print as SVG.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import shlex
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tests.conftest import SAMPLE

COLUMNS = 100

COMMANDS = [
    "protrna embed rna_families.fa -o families.parquet --model demo",
    "protrna info families.parquet",
    "protrna embed protein.fa -o protein.parquet --model demo",
]


def printed(command: str, folder: Path) -> str:
    """Run a command on a terminal; returns the last state of each line that it printed, with its colours."""
    parent_end, child_end = pty.openpty()
    fcntl.ioctl(child_end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    words = [sys.executable, "-m", "protrna_cli", *shlex.split(command)[1:]]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    child = subprocess.Popen(
        words, cwd=folder, env=environment, stdin=child_end, stdout=child_end, stderr=child_end
    )
    os.close(child_end)
    shown = b""
    try:
        while block := os.read(parent_end, 65536):
            shown += block
    except OSError:  # the child has closed its end
        pass
    child.wait()
    os.close(parent_end)
    lines = shown.decode().replace("\r\n", "\n").split("\n")
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
