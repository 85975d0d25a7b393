"""`protrna convert`."""

from __future__ import annotations

from pathlib import Path

import click

from protrna_cli.cli.help import Command, epilog
from protrna_cli.cli.options import (
    ANY_PATH,
    OneOf,
    WholeNumber,
    note_unproven,
    options_of,
    overwrite,
    tell,
    verbosity,
)
from protrna_cli.output.formats.table import ALL_FORMATS, choose_format, refuse_layout
from protrna_cli.run.options import EmbedOptions
from protrna_cli.text import counted


@click.command(
    cls=Command,
    epilog=epilog(
        "protrna convert out.parquet -o out.npy",
        "protrna convert out.parquet -o out.h5ad",
        "protrna convert out.h5 -o out.tsv --layer 33",
        topics="outputs, reading",
    ),
)
@click.argument("source", metavar="IN", type=ANY_PATH)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT",
    type=ANY_PATH,
    help="Output file: .parquet, .h5, .npy, .h5ad (AnnData, for scanpy), .npz (NumPy, all in one file) or "
    ".tsv (vectors for the TensorBoard Embedding Projector, plus OUT.metadata.tsv). A symbolic link is "
    "refused: name the file that it points to.",
)
@click.option("--format", type=OneOf(ALL_FORMATS), help="Format of OUT.  [default: by its suffix]")
@options_of(EmbedOptions, "h5_layout")
@click.option(
    "--layer",
    "layers",
    type=WholeNumber(),
    multiple=True,
    metavar="N",
    help="Layer of IN to keep; may be given several times.  [default: all]",
)
@overwrite()
@verbosity
def convert(
    source: str,
    output: str,
    format: str | None,
    h5_layout: str,
    layers: tuple[int, ...],
    overwrite: bool,
) -> None:
    """Convert an output to another format.

    IN is a protrna output in any format, which is detected from its content. It is read in blocks. Rows,
    numbers and provenance do not change.
    """
    chosen = choose_format(Path(output), format, h5_layout, exports=True)
    refuse_layout(h5_layout, [chosen])
    from protrna_cli.output.make import convert as convert_output

    header = convert_output(Path(source), Path(output), chosen, layers, overwrite)
    note_unproven(Path(source))
    tell(f"{counted(header.n_rows, 'row')}: {output}")
