"""Put a finished output into place, so that an end at any instant leaves the old one or the new one."""

from __future__ import annotations

import shutil
from pathlib import Path

from protrna_cli.disk import sync
from protrna_cli.output.formats.table import Format
from protrna_cli.output.paths import skipped_path


def publish(made: Path, output: Path, format: Format, skipped: Path | None) -> None:
    """Rename a finished output into place, after its companion files; all of them are made durable first.

    Parameters
    ----------
    made, output
        Where it is, and where it goes.
    skipped
        The list of its skipped records, if there are any; a list left by an earlier run is removed.
    """
    *companions, (last, _) = zip(format.files(made), format.files(output), strict=True)
    if skipped:
        companions.insert(0, (skipped, skipped_path(output)))
    else:
        skipped_path(output).unlink(missing_ok=True)
    for source, target in companions:
        # Copied, so that an end between two renames leaves all that --resume needs.
        staged = source.with_name(f"{source.name}.copy")
        shutil.copyfile(source, staged)
        sync(staged)
        staged.replace(target)
    sync(last)
    last.replace(output)
    sync(output.parent)
