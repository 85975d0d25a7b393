"""`protrna merge`."""

from __future__ import annotations

from pathlib import Path

import click

from protrna_cli.cli.options import ANY_PATH, format_of_output, overwrite, verbosity
from protrna_cli.cli.terminal import say
from protrna_cli.output.formats.table import choose_format
from protrna_cli.text import counted


@click.command(epilog="\b\nExample:\n  protrna merge out.*-of-7.parquet -o out.parquet\n")
@click.argument("parts", nargs=-1, required=True, metavar="PART...", type=ANY_PATH)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT",
    type=ANY_PATH,
    help="Output file: .parquet, .h5 or .npy.",
)
@format_of_output()
@overwrite()
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
    """Join the parts of a sharded run.

    First checks that no part is missing. PART is an output of protrna embed --shard, in any order and
    format, or a folder made by --dask. OUT is what one run without --shard would have made.
    """
    del verbose  # no library prints anything here
    chosen = choose_format(Path(output), format, h5_layout)
    from protrna_cli.output.merge import merge as merge_parts

    header = merge_parts([Path(part) for part in parts], Path(output), chosen, overwrite)
    if not quiet:
        say(f"{counted(header.n_rows, 'row')}: {output}")
