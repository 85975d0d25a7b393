"""`protrna doctor`."""

from __future__ import annotations

import click

from protrna_cli.cli.help import Command, epilog
from protrna_cli.cli.options import as_json, is_verbose, options_of, show, verbosity
from protrna_cli.errors import NotFinite
from protrna_cli.libraries import quiet_libraries
from protrna_cli.run.options import EmbedOptions

WRONG_NUMBERS = NotFinite.exit_code
"""Exit code for wrong numbers, the same as for an embedding that is not finite."""


@click.command(
    cls=Command, epilog=epilog("protrna doctor", "protrna doctor --model demo --json", topics="speed")
)
@options_of(EmbedOptions, "model", "weights_dir", "device", "threads")
@as_json
@verbosity
def doctor(
    model: str,
    weights_dir: str | None,
    device: str,
    threads: int | None,
    as_json: bool,
) -> int:
    """Check this machine and its numbers.

    If the published weights are missing, the demo model is tested.
    Shows what TensorFlow sees, how fast it is and whether the numbers are right. Takes a few seconds, or a
    minute with the published weights. Exit code 70 means that numbers are wrong.
    """
    with quiet_libraries(is_verbose()):
        from protrna_cli.run.doctor import examine

        diagnosis = examine(model, weights_dir, device, threads)
    show(diagnosis.json() if as_json else diagnosis.text())
    return 0 if diagnosis.is_sound else WRONG_NUMBERS
