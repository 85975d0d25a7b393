"""`protrna merge`."""

from __future__ import annotations

from pathlib import Path

import click

from protrna_cli.cli.terminal import say, verbosity
from protrna_cli.output import FORMATS, H5_LAYOUTS, format_of


@click.command(epilog="\b\nExample:\n  protrna merge out.*-of-7.parquet -o out.parquet\n")
@click.argument("parts", nargs=-1, required=True, metavar="PART...", type=click.Path())
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT",
    type=click.Path(),
    help="File to make: .parquet, .h5 or .npy.",
)
@click.option("--format", type=click.Choice(FORMATS), help="Format of OUT.  [default: told by its suffix]")
@click.option(
    "--h5-layout", type=click.Choice(H5_LAYOUTS), default="flat", show_default=True, help="As in embed."
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@verbosity
def merge(
    parts: tuple[str, ...],
    output: str,
    format: str | None,
    h5_layout: str,
    overwrite: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Join the parts of a sharded run, and prove that they are all there.

    PART is an output of protrna embed --shard, in any order and format, or the folder that --dask made. OUT
    holds what one run without --shard would have made.
    """
    del verbose  # no library talks here
    format = format or format_of(Path(output))
    from protrna_cli.merging import merge as merge_parts

    header = merge_parts([Path(part) for part in parts], Path(output), format, h5_layout, overwrite)
    if not quiet:
        say(f"{header.n_rows:,} records: {output}")
