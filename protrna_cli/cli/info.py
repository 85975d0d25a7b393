"""`protrna info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from protrna_cli.cli.terminal import verbosity

if TYPE_CHECKING:
    from protrna_cli.output.rows import Header


@click.command(epilog="\b\nExamples:\n  protrna info out.parquet\n  protrna info ProtRNA_pretrained.h5\n")
@click.argument("file", metavar="FILE", type=click.Path())
@verbosity
def info(file: str, quiet: bool, verbose: bool) -> None:
    """Show what a file holds: an output of protrna embed and how it was made, or a checkpoint."""
    del quiet, verbose  # what is asked for is said, and no library talks here
    from protrna_cli.model.checkpoint import is_checkpoint
    from protrna_cli.output import read_output

    path = Path(file)
    click.echo(_checkpoint_text(path) if is_checkpoint(path) else _text(file, read_output(path)[0]))


def _checkpoint_text(path: Path) -> str:
    from protrna_cli.model.checkpoint import read_size
    from protrna_cli.weights import trust

    size, dtype = read_size(path)
    return "\n".join(
        [
            f"{path}: checkpoint, {size.parameters:,} parameters",
            f"{size.layers} layers, width {size.width}, {size.heads} heads, {dtype}",
            f"sha256: {trust.sha256(path)}",
        ]
    )


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
