"""`protrna doctor`."""

from __future__ import annotations

import click

from protrna_cli.cli.device import on_device
from protrna_cli.cli.terminal import hushed_libraries, verbosity
from protrna_cli.cli.weights import weights_dir
from protrna_cli.weights import PUBLISHED

UNSOUND = 70
"""Exit code of numbers that are not right, that of an embedding which is not finite."""


@click.command(epilog="\b\nExamples:\n  protrna doctor\n  protrna doctor --model demo --format json\n")
@click.option(
    "--model",
    default=PUBLISHED,
    show_default=True,
    metavar="NAME|PATH",
    help="Model to try; demo stands in where the published weights are not at hand.",
)
@weights_dir
@on_device
@click.option("--format", type=click.Choice(["table", "json"]), default="table", show_default=True)
@verbosity
def doctor(
    model: str,
    weights_dir: str | None,
    device: str,
    threads: int | None,
    format: str,
    quiet: bool,
    verbose: bool,
) -> int:
    """Look at this machine: what TensorFlow sees, how fast it is, whether the numbers are right.

    Takes some seconds, and a minute with the published weights. Exit code 70 says that numbers are wrong.
    """
    del quiet  # what is asked for is said
    with hushed_libraries(verbose):
        from protrna_cli.doctor import examine

        diagnosis = examine(model, weights_dir, device, threads)
    click.echo(diagnosis.json() if format == "json" else diagnosis.text())
    return 0 if diagnosis.is_sound else UNSOUND
