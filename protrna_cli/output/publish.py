"""Move a finished output into place.

An output of one file (Parquet, HDF5) is the old one or the new one at any moment. One of several files
(NumPy, TSV) is a mixture of both for a moment, and stays so if a crash falls into it: then `OUT.partial`
still has all of the new one, and the same command with `--resume` puts it in place.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from protrna_cli.disk import sync
from protrna_cli.output.formats.table import Format
from protrna_cli.output.paths import skipped_path


def publish(made: Path, output: Path, format: Format, skipped: Path | None) -> None:
    """Rename a finished output into place, after its companion files; all are synced to disk first.

    Parameters
    ----------
    made, output
        Its current path and its final path.
    skipped
        List of its skipped records, or None, in which case the list of an earlier run is removed.
    """
    *companions, (last, _) = zip(format.files(made), format.files(output), strict=True)
    if skipped:
        companions.insert(0, (skipped, skipped_path(output)))
    else:
        skipped_path(output).unlink(missing_ok=True)
    for source, target in companions:
        # Copied, so that --resume still finds every file after a crash between two renames.
        staged = source.with_name(f"{source.name}.copy")
        shutil.copyfile(source, staged)
        sync(staged)
        staged.replace(target)
    sync(last)
    last.replace(output)
    sync(output.parent)
