"""Write an output made from other outputs: first into a folder beside it, then renamed into place."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from protrna_cli.disk import locked, writing
from protrna_cli.errors import OutputUnwritable
from protrna_cli.output.formats.table import Format
from protrna_cli.output.paths import journal_path, manifest_path, partial_path
from protrna_cli.output.protect import make_partial, remove_partial, skipped_of
from protrna_cli.output.publish import publish
from protrna_cli.output.rows import Block, Header


def make_output(
    target: Path,
    format: Format,
    overwrite: bool,
    header: Header,
    blocks: Iterable[Block],
    sources: Sequence[Path],
) -> None:
    """Write an output that `protect` allowed, and move it into place; a failure leaves nothing behind.

    Parameters
    ----------
    sources
        The outputs that it is made from; their lists of skipped records are joined.
    """
    with locked(target):
        for file in format.files(target):
            if file.exists() and not overwrite:
                raise OutputUnwritable(f"{file}: exists; use --overwrite to replace it, or choose another -o")
        if journal_path(target).exists() or manifest_path(target).exists():
            raise OutputUnwritable(
                f"{partial_path(target)}: an unfinished run; finish it with protrna embed --resume, "
                "or remove it"
            )
        try:
            with writing(target, "free space and run again"):
                folder = make_partial(target)  # in place of one that a killed process left
                made = folder / target.name
                format.write(made, header, blocks)
                skipped = join_skipped(map(skipped_of, sources), folder / "skipped.tsv")
                publish(made, target, format, skipped)
        finally:
            remove_partial(target)


def join_skipped(paths: Iterable[Path], target: Path) -> Path | None:
    """Join lists of skipped records, each list once; returns `target`, or None if there is no list."""
    lists = [path for path in dict.fromkeys(paths) if path.exists()]
    if not lists:
        return None
    with target.open("wb") as joined:
        for i, each in enumerate(lists):
            with each.open("rb") as file:
                header = file.readline()
                if i == 0:
                    joined.write(header)
                shutil.copyfileobj(file, joined)
    return target
