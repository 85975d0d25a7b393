"""`protrna merge`."""

from __future__ import annotations

from pathlib import Path

import click

from protrna_cli.cli.help import Command, epilog
from protrna_cli.cli.listed import several_paths
from protrna_cli.cli.options import ANY_PATH, options_of, overwrite, tell, verbosity
from protrna_cli.output.formats.table import choose_format, refuse_layout
from protrna_cli.run.options import EmbedOptions
from protrna_cli.text import counted


@click.command(
    cls=Command, epilog=epilog("protrna merge out.*-of-7.parquet -o out.parquet", topics="shards, slurm")
)
@several_paths("parts", "PART...")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT",
    type=ANY_PATH,
    help="Output file: .parquet, .h5 or .npy. A symbolic link is refused: name the file that it points to.",
)
@options_of(EmbedOptions, "format", "h5_layout")
@overwrite()
@verbosity
def merge(
    parts: tuple[str, ...],
    output: str,
    format: str | None,
    h5_layout: str,
    overwrite: bool,
) -> None:
    """Join the parts of a sharded run.

    First checks that no part is missing. PART is an output of protrna embed --shard, in any order and
    format, or a folder made by --dask. OUT has the rows of one run without --shard. Its values are equal bit
    for bit if the shards were cut between chunks, which needs 16 chunks (of up to 4,096 records) per shard;
    if batches were cut elsewhere, they are equal up to rounding: within 1e-5 in float32.
    """
    chosen = choose_format(Path(output), format, h5_layout)
    refuse_layout(h5_layout, [chosen])
    from protrna_cli.output.make import merge as merge_parts

    header = merge_parts([Path(part) for part in parts], Path(output), chosen, overwrite)
    tell(f"{counted(header.n_rows, 'row')}: {output}")
