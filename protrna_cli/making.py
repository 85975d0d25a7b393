"""An output made of other outputs: in a folder of its own beside its place, then renamed into it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from protrna_cli import output
from protrna_cli.errors import OutputUnwritable, WriteFailed
from protrna_cli.locks import locked
from protrna_cli.output.rows import Block, Header
from protrna_cli.spool import is_part, partial_path, publish, skipped_path


def make_output(
    target: Path,
    format: str,
    h5_layout: str,
    overwrite: bool,
    header: Header,
    blocks: Iterable[Block],
    sources: Sequence[Path],
) -> None:
    """Write an output and put it into place, or leave nothing.

    Parameters
    ----------
    sources
        The outputs that it is made of; the lists of their skipped records are joined.

    Raises
    ------
    OutputUnwritable
        The output exists, or cannot be created, or an unfinished run stands in its place.
    WriteFailed
        Writing broke off; the sources are as they were.
    """
    folder = partial_path(target)
    with locked(target):
        if not overwrite and any(file.exists() for file in output.files_of(target, format)):
            raise OutputUnwritable(f"{target}: exists; use --overwrite to replace it, or choose another -o")
        if (folder / "journal").exists():
            raise OutputUnwritable(f"{folder}: a run that did not finish; finish it or remove it first")
        shutil.rmtree(folder, ignore_errors=True)  # what a killed process left: nothing can go on from it
        try:
            folder.mkdir()
            made = folder / target.name
            output.write_output(made, format, h5_layout, header, blocks)
            publish(made, target, format, join_skipped(map(_skipped_of, sources), folder / "skipped.tsv"))
        except OSError as error:
            raise WriteFailed(
                f"{target}: writing failed ({error.strerror or error}); make room first"
            ) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _skipped_of(source: Path) -> Path:
    """The list of an output's skipped records; the parts of a dataset have one together."""
    return skipped_path(source.parent if is_part(source) else source)


def join_skipped(paths: Iterable[Path], target: Path) -> Path | None:
    """Join lists of skipped records, each once; None when there is none."""
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
