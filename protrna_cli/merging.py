"""The parts of a sharded run made one output, once all of them are there and belong together."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from protrna_cli import output
from protrna_cli.errors import OutputUnwritable, RunMismatch, WriteFailed
from protrna_cli.journal import compare_keys
from protrna_cli.locks import locked
from protrna_cli.output.rows import Block, Header
from protrna_cli.provenance import run_key, shard_of
from protrna_cli.shard import WHOLE
from protrna_cli.spool import partial_path, publish, skipped_path


def merge(parts: Sequence[Path], target: Path, format: str, h5_layout: str, overwrite: bool) -> Header:
    """Join the parts of a sharded run into one output, equal to that of the run in one piece.

    Parameters
    ----------
    parts
        Finished outputs of `--shard 1/N` to `N/N`, in any order and of any format.

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
        ordered = _ordered(parts)
        header = _joined(list(ordered.values()), ordered)
        folder = partial_path(target)
        if folder.exists():
            raise OutputUnwritable(f"{folder}: a run that did not finish; finish it or remove it first")
        try:
            folder.mkdir()
            made = folder / target.name
            blocks = chain.from_iterable(_blocks(path, head) for path, head in ordered.items())
            output.write_output(made, format, h5_layout, header, blocks)
            publish(made, target, format, _join_skipped(list(ordered), folder / "skipped.tsv"))
        except OSError as error:
            raise WriteFailed(
                f"{target}: writing failed ({error.strerror or error}); make room first"
            ) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return header


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
    embedded, skipped = (
        sum(header.provenance[name] for header in headers) for name in ("embedded", "skipped")
    )
    records = headers[0].provenance["records"]
    if embedded + skipped != records:
        raise RunMismatch(
            f"{', '.join(map(str, parts))}: hold {embedded:,} and leave out {skipped:,} of {records:,} "
            "records; make the parts again, all with one version"
        )
    provenance = {
        **headers[0].provenance,
        "shard": str(WHOLE),
        "embedded": embedded,
        "skipped": skipped,
    }
    rows = sum(header.n_rows for header in headers)
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


def _join_skipped(parts: list[Path], target: Path) -> Path | None:
    """Join the lists of skipped records; None when no part has one."""
    lists = [skipped_path(part) for part in parts if skipped_path(part).exists()]
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
