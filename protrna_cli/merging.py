"""The parts of a sharded run made one output, once all of them are there and belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from protrna_cli import output
from protrna_cli.errors import RunMismatch
from protrna_cli.journal import compare_keys
from protrna_cli.making import make_output
from protrna_cli.output.rows import Header
from protrna_cli.provenance import run_key, shard_of
from protrna_cli.shard import WHOLE


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
        A part is missing, doubled or of another run.
    InputUnreadable, InputError
        A part cannot be read, is damaged, or lacks rows.
    OutputUnwritable
        The output exists, or cannot be created.
    WriteFailed
        Writing broke off; the parts are as they were.
    """
    ordered = _ordered(parts)
    header = _joined(list(ordered.values()), ordered)
    blocks = chain.from_iterable(output.read_whole(part)[1] for part in ordered)
    make_output(target, format, h5_layout, overwrite, header, blocks, list(ordered))
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
