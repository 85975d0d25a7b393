"""`protrna verify`."""

from __future__ import annotations

from pathlib import Path

import click

from protrna_cli.cli.help import Command, epilog
from protrna_cli.cli.listed import several_paths
from protrna_cli.cli.options import ANY_PATH, say, tell, verbosity
from protrna_cli.errors import InputError
from protrna_cli.output.paths import partial_path
from protrna_cli.run.stop import SignalStop


@click.command(cls=Command, epilog=epilog("protrna verify out.parquet input.fa", topics="outputs, shards"))
@click.argument("output", metavar="OUT", type=ANY_PATH)
@several_paths("inputs", "INPUT...")
@click.option("--regions", metavar="BED", type=ANY_PATH, help="BED file that OUT was made with.")
@verbosity
def verify(output: str, inputs: tuple[str, ...], regions: str | None) -> None:
    """Check that an output is complete and undamaged.

    OUT is compared with the INPUT it was made from: every record must have its row, in order, with its id,
    its counts and finite numbers of the right shape, or be listed as skipped.
    """
    with SignalStop() as stop, stop.abandoning():
        from protrna_cli.output.stored import make_again
        from protrna_cli.run.verify import OTHER_INPUT, find_flaws

        flaws = find_flaws(Path(output), inputs, regions)
    for flaw in flaws:
        say(flaw)
    if flaws:
        remedy = make_again(Path(output))
        if OTHER_INPUT in flaws:
            remedy += ", or give the INPUT it was made from"
        raise InputError(f"{output}: incomplete or damaged; {remedy}")
    tell(f"{output}: complete")
    if (partial := partial_path(Path(output))).exists():
        tell(f"note: {partial}: an unfinished run of its next version; --resume continues it")
