"""`protrna info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from protrna_cli.cli.help import Command, epilog
from protrna_cli.cli.options import ANY_PATH, as_json, note_unproven, show, verbosity
from protrna_cli.errors import InputError
from protrna_cli.output.formats.table import H5_SUFFIXES
from protrna_cli.text import aligned, printable, size_text
from protrna_cli.weights.checkpoint import checked_sha256, weights_in


@click.command(
    cls=Command,
    epilog=epilog(
        "protrna info out.parquet",
        "protrna info out.h5 --json",
        "protrna info ProtRNA_pretrained.h5",
        "protrna info protrna-pytorch",
        topics="outputs",
    ),
)
@click.argument("file", metavar="FILE", type=ANY_PATH)
@click.option(
    "--all", "whole", is_flag=True, help="Read every row of an output.  [default: those read in about 5 s]"
)
@as_json
@verbosity
def info(file: str, whole: bool, as_json: bool) -> None:
    """Describe an output, a checkpoint or an export.

    For an output (a file, or a folder made by --dask): how it was made, its columns, first rows, vector
    norms, and repeated ids and embeddings. A large output is not read to its end; the text shows how many
    rows it covers.
    """
    from protrna_cli.model.checkpoint import explain_damage, is_checkpoint
    from protrna_cli.output.stored import refuse_changed_bytes

    path = weights_in(Path(file))
    refuse_changed_bytes(path)  # before libhdf5, which can crash on them, opens it
    if is_checkpoint(path):
        described = _checkpoint(path)
        show(json.dumps(described) if as_json else _checkpoint_text(described))
        return
    if path.suffix.lower() in H5_SUFFIXES and (damage := explain_damage(path)):
        raise InputError(f"{path}: {damage}; if it is an output, make it again")
    from protrna_cli.output.describe import describe

    description = describe(path, whole)
    note_unproven(path)
    show(description.json() if as_json else description.text())


def _checkpoint(path: Path) -> dict[str, Any]:
    from protrna_cli.model.checkpoint import read_size

    size, dtype = read_size(path)
    return {
        "file": printable(str(path)),
        "bytes": path.stat().st_size,
        "parameters": size.parameters,
        "layers": size.layers,
        "width": size.width,
        "heads": size.heads,
        "dtype": dtype,
        "sha256": checked_sha256(path),
    }


def _checkpoint_text(described: dict[str, Any]) -> str:
    told = {
        "layers": f"{described['layers']}, width {described['width']}, {described['heads']} heads",
        "parameters": f"{described['parameters']:,}, {described['dtype']}",
        "size": size_text(described["bytes"]),
        "SHA-256": described["sha256"],
    }
    return f"{described['file']}: checkpoint\n\n{aligned(told)}"
