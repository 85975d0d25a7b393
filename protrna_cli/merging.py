"""The parts of a sharded run made one output, once all of them are there and belong together."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from protrna_cli import output
from protrna_cli.errors import InputUnreadable, OutputUnwritable, RunMismatch, WriteFailed
from protrna_cli.journal import compare_keys
from protrna_cli.locks import locked
from protrna_cli.output.rows import Block, Header
from protrna_cli.provenance import run_key, shard_of
from protrna_cli.shard import WHOLE
from protrna_cli.spool import is_part, partial_path, publish, skipped_path


def merge(parts: Sequence[Path], target: Path, format: str, h5_layout: str, overwrite: bool) -> Header:
    """Join the parts of a sharded run into one output, equal to that of the run in one piece.

    Parameters
    ----------
    parts
        Finished outputs of `--shard 1/N` to `N/N`, in any order and of any format, or the folder of a
        dataset.

    Returns
    -------
    Header
        Of the output made.

    Raises
    ------
    RunMismatch
        A part is missing, doubled, incomplete or of another run.
    OutputUnwritable
        The output exists, or cannot be created.
    WriteFailed
        Writing broke off; the parts are as they were.
    """
    with locked(target):
        if not overwrite and any(file.exists() for file in output.files_of(target, format)):
            raise OutputUnwritable(f"{target}: exists; use --overwrite to replace it, or choose another -o")
        ordered, header, blocks = read_parts([part for path in parts for part in parts_of(path)])
        folder = partial_path(target)
        if folder.exists():
            raise OutputUnwritable(f"{folder}: a run that did not finish; finish it or remove it first")
        try:
            folder.mkdir()
            made = folder / target.name
            output.write_output(made, format, h5_layout, header, blocks)
            publish(made, target, format, join_skipped(map(_skipped_of, ordered), folder / "skipped.tsv"))
        except OSError as error:
            raise WriteFailed(
                f"{target}: writing failed ({error.strerror or error}); make room first"
            ) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return header


def parts_of(path: Path) -> list[Path]:
    """The parts of a dataset, in order; an output of one file is its own only part.

    Raises
    ------
    InputUnreadable
        It is a folder, and no part is in it.
    """
    if not path.is_dir():
        return [path]
    parts = sorted(filter(is_part, path.iterdir()))
    if not parts:
        raise InputUnreadable(f"{path}: a folder without parts; name an output of protrna embed")
    return parts


def read_whole(path: Path) -> tuple[Header, Iterator[Block]]:
    """Open an output, a file or a dataset, as `output.read_output` does.

    Raises
    ------
    InputUnreadable, InputError, RunMismatch
        As `output.read_output` and `read_parts`.
    """
    return read_parts(parts_of(path))[1:] if path.is_dir() else output.read_output(path)


def read_parts(parts: Sequence[Path]) -> tuple[list[Path], Header, Iterator[Block]]:
    """Open the parts of a sharded run as one output.

    Returns
    -------
    tuple
        The parts in order, the header of all together, and their rows, read as they are asked for.

    Raises
    ------
    RunMismatch
        A part is missing, doubled, incomplete or of another run.
    """
    ordered = _ordered(parts)
    header = _joined(list(ordered.values()), ordered)
    blocks = chain.from_iterable(_blocks(path, head) for path, head in ordered.items())
    return list(ordered), header, blocks


def _ordered(parts: Sequence[Path]) -> dict[Path, Header]:
    """Read the headers of the parts, put in order, after making sure that all of one run are there."""
    headers = [output.read_output(part)[0] for part in parts]
    count = shard_of(headers[0]).count
    places: dict[int, tuple[Path, Header]] = {}
    for part, header in zip(parts, headers, strict=True):
        shard = shard_of(header)
        key, first = ({**run_key(each), "shard": shard_of(each).count} for each in (header, headers[0]))
        compare_keys(first, key, str(part))
        if shard.index in places:
            other = places[shard.index][0]
            raise RunMismatch(f"{part}: holds shard {shard}, as {other} does; name every part once")
        places[shard.index] = part, header
    if missing := [f"{index}/{count}" for index in range(1, count + 1) if index not in places]:
        raise RunMismatch(
            f"shard {', '.join(missing)} is missing; run protrna embed with --shard {missing[0]}"
        )
    return dict(places[index] for index in range(1, count + 1))


def _joined(headers: list[Header], parts: dict[Path, Header]) -> Header:
    """Header of all parts together; the records of the input must be what they hold and leave out."""
    skipped = sum(header.provenance["skipped"] for header in headers)
    rows = sum(header.n_rows for header in headers)
    records = headers[0].provenance["records"]
    if rows + skipped != records:
        raise RunMismatch(
            f"{', '.join(map(str, parts))}: hold {rows:,} and leave out {skipped:,} of {records:,} records; "
            "make the parts again, all with one version"
        )
    provenance = {**headers[0].provenance, "shard": str(WHOLE), "skipped": skipped}
    residues = sum(header.n_residues for header in headers)
    return replace(headers[0], n_rows=rows, n_residues=residues, provenance=provenance)


def _blocks(part: Path, header: Header) -> Iterator[Block]:
    """Read a part's rows and make sure that there are as many as it says."""
    rows = 0
    for block in output.read_output(part)[1]:
        rows += len(block.rows)
        yield block
    if rows != header.n_rows:
        raise RunMismatch(f"{part}: has {rows:,} rows, not {header.n_rows:,}; make this part again")


def _skipped_of(part: Path) -> Path:
    """The list of a part's skipped records; the parts of a dataset have one together."""
    return skipped_path(part.parent if is_part(part) else part)


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
