"""`protrna doctor`."""

from __future__ import annotations

import click

from protrna_cli.cli.options import as_json, on_device, verbosity, weights_dir
from protrna_cli.cli.terminal import quiet_libraries
from protrna_cli.errors import NotFinite
from protrna_cli.weights.names import PUBLISHED

UNSOUND = NotFinite.exit_code
"""Exit code of wrong numbers, the same as for an embedding that is not finite."""


@click.command(epilog="\b\nExamples:\n  protrna doctor\n  protrna doctor --model demo --json\n")
@click.option(
    "--model",
    default=PUBLISHED,
    show_default=True,
    metavar="NAME|PATH",
    help="Model to try; the demo model is used where the published weights are missing.",
)
@weights_dir
@on_device
@as_json
@verbosity
def doctor(
    model: str,
    weights_dir: str | None,
    device: str,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Look at this machine: what TensorFlow sees, how fast it is, whether the numbers are right.

    Takes some seconds, or a minute with the published weights. Exit code 70 means that numbers are wrong.
    """
    del quiet  # the answer is printed in any case
    with quiet_libraries(verbose):
        from protrna_cli.run.doctor import examine

        diagnosis = examine(model, weights_dir, device, threads)
    click.echo(diagnosis.json() if as_json else diagnosis.text())
    return 0 if diagnosis.is_sound else UNSOUND
