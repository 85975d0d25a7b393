"""`protrna convert`."""

from __future__ import annotations

from pathlib import Path

import click

from protrna_cli.cli.terminal import say, verbosity
from protrna_cli.output import EXPORTS, FORMATS, H5_LAYOUTS, format_of

EPILOG = """\b
Examples:
  protrna convert out.parquet -o out.npy
  protrna convert out.parquet -o out.h5ad
  protrna convert out.h5 -o out.tsv --layer 33
"""


@click.command(epilog=EPILOG)
@click.argument("source", metavar="IN", type=click.Path())
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT",
    help="File to make: .parquet, .h5, .npy, .h5ad (AnnData, for scanpy) or .tsv (vectors, with "
    "OUT.metadata.tsv beside them, for the TensorBoard Embedding Projector).",
)
@click.option(
    "--format", type=click.Choice([*FORMATS, *EXPORTS]), help="Format of OUT.  [default: told by its suffix]"
)
@click.option(
    "--h5-layout", type=click.Choice(H5_LAYOUTS), default="flat", show_default=True, help="As in embed."
)
@click.option(
    "--layer",
    "layers",
    type=int,
    multiple=True,
    metavar="N",
    help="Layer to keep, of those in IN; may be given several times.  [default: all]",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@verbosity
def convert(
    source: str,
    output: str,
    format: str | None,
    h5_layout: str,
    layers: tuple[int, ...],
    overwrite: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Write an output in another format.

    IN is an output of protrna in any format, told by its content; it is read a block at a time. Rows,
    numbers and provenance stay as they are.
    """
    del verbose  # no library talks here
    format = format or format_of(Path(output), (*FORMATS, *EXPORTS))
    from protrna_cli.converting import convert as convert_output

    header = convert_output(Path(source), Path(output), format, h5_layout, layers, overwrite)
    if not quiet:
        say(f"{header.n_rows:,} records: {output}")
