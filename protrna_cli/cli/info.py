"""`protrna info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from protrna_cli.cli.terminal import verbosity

if TYPE_CHECKING:
    from protrna_cli.output.rows import Header


@click.command(epilog="\b\nExample:\n  protrna info out.parquet\n")
@click.argument("file", metavar="FILE")
@verbosity
def info(file: str, quiet: bool, verbose: bool) -> None:
    """Show what an output of protrna embed holds, and how it was made."""
    del quiet, verbose  # what is asked for is said, and no library talks here
    from protrna_cli.output import read_output

    header, _ = read_output(Path(file))
    click.echo(_text(file, header))


def _text(file: str, header: Header) -> str:
    kind = "per token" if header.per_token else "pooled"
    layers = ", ".join(map(str, header.layers))
    lines = [
        f"{file}: {header.n_rows:,} rows, {header.n_residues:,} residues",
        f"{kind}, layer {layers}, width {header.width}, {header.dtype}",
    ]
    for key, value in header.provenance.items():
        lines.append(f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines)
