"""`protrna verify`."""

from __future__ import annotations

from pathlib import Path

import click

from protrna_cli.cli.options import verbosity
from protrna_cli.cli.terminal import say
from protrna_cli.errors import InputError


@click.command(epilog="\b\nExample:\n  protrna verify out.parquet input.fa\n")
@click.argument("output", metavar="OUT", type=click.Path())
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=click.Path())
@click.option("--regions", metavar="BED", type=click.Path(), help="The regions that OUT was made with.")
@verbosity
def verify(output: str, inputs: tuple[str, ...], regions: str | None, quiet: bool, verbose: bool) -> None:
    """Check that an output is complete.

    OUT is compared with the INPUT that it was made from: every record has its row, in order, with its id, its
    counts and finite numbers of the right shape, or it is listed as skipped.
    """
    del verbose  # no library writes messages here
    from protrna_cli.run.verify import find_flaws

    flaws = find_flaws(Path(output), inputs, regions)
    for flaw in flaws:
        say(flaw)
    if flaws:
        raise InputError(f"{output}: not complete; make it again with protrna embed --overwrite")
    if not quiet:
        say(f"{output}: complete")
