"""Read the parts of a sharded run as one output; they must be complete and belong together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from protrna_cli.errors import InputUnreadable, RunMismatch
from protrna_cli.output.paths import is_part
from protrna_cli.output.provenance import first_difference, run_key, shard_of
from protrna_cli.output.read import read_output, read_whole
from protrna_cli.output.rows import Block, Header
from protrna_cli.plan.shard import WHOLE
from protrna_cli.text import reason


def parts_of(path: Path) -> list[Path]:
    """List the parts in a folder, in order; an output that is one file is its only part."""
    if not is_folder(path):
        return [path]
    try:
        parts = sorted(filter(is_part, path.iterdir()))
    except OSError as error:
        raise InputUnreadable(f"{path}: cannot be read ({reason(error)}); name another output") from None
    if not parts:
        raise InputUnreadable(f"{path}: a folder without parts; name an output of protrna embed")
    return parts


def unproven_part(path: Path) -> Path | None:
    """Find a file of an output that another program wrote anew, without checksums; None if there is none."""
    return next((part for part in parts_of(path) if read_output(part)[0].is_unproven), None)


def is_folder(path: Path) -> bool:
    """Whether a path is a folder; False if that cannot be seen, and reading it says why."""
    try:
        return path.is_dir()
    except OSError:
        return False


def read_joined(path: Path) -> tuple[Header, Iterator[Block]]:
    """Open an output, a file or a folder of parts, as `read_whole` does."""
    return read_parts(parts_of(path))[1:] if is_folder(path) else read_whole(path)


def read_parts(parts: Sequence[Path]) -> tuple[list[Path], Header, Iterator[Block]]:
    """Open the parts of a sharded run as one output.

    Returns
    -------
    tuple
        The parts in order, their merged header, and an iterator over their blocks, which are read lazily.
    """
    ordered = _order_parts(parts)
    header = _merge_headers(list(ordered.values()), ordered)
    blocks = chain.from_iterable(read_whole(part)[1] for part in ordered)
    return list(ordered), header, blocks


def _order_parts(parts: Sequence[Path]) -> dict[Path, Header]:
    """Read the headers of the parts and order them; all parts of one run must be there."""
    headers = [read_output(part)[0] for part in parts]
    for part, header in zip(parts, headers, strict=True):
        run_key(header, str(part))  # refuses an incomplete header
    count = shard_of(headers[0]).count
    by_index: dict[int, tuple[Path, Header]] = {}
    for part, header in zip(parts, headers, strict=True):
        _refuse_foreign(part, header, parts[0], headers[0])
        shard = shard_of(header)
        if shard.index in by_index:
            other = by_index[shard.index][0]
            raise RunMismatch(f"{part}: is shard {shard}, and so is {other}; name every part once")
        by_index[shard.index] = part, header
    if missing := [f"{index}/{count}" for index in range(1, count + 1) if index not in by_index]:
        raise RunMismatch(
            f"no part for shard {', '.join(missing)}; run protrna embed with --shard {missing[0]}"
        )
    return dict(by_index[index] for index in range(1, count + 1))


def _refuse_foreign(part: Path, header: Header, first: Path, first_header: Header) -> None:
    """Refuse a part that is not of the same run as the first part, and say how to make it again."""
    # The size of a batch changes the last bits only, as another processor does, and is chosen by machine.
    keys = [{**run_key(each), "shard": None, "batch_tokens": None} for each in (header, first_header)]
    shard, other = shard_of(header), shard_of(first_header)
    if shard.count != other.count:
        raise RunMismatch(f"{part}: is shard {shard}, but {first} is {other}; name the parts of one run")
    if difference := first_difference(*keys):
        field, found, wanted = difference
        raise RunMismatch(
            f"{part}: its {field} is {found}, but that of {first} is {wanted}; make one of them again as the "
            f"other, for example with protrna embed --shard {shard} --overwrite and the input and options "
            f"that protrna info {first} shows"
        )


def _merge_headers(headers: list[Header], parts: dict[Path, Header]) -> Header:
    """Merge the headers; together the parts must have embedded or skipped every record of the input."""
    embedded, skipped = (
        sum(header.provenance[name] for header in headers) for name in ("embedded", "skipped")
    )
    records = headers[0].provenance["records"]
    if embedded + skipped != records:
        raise RunMismatch(
            f"{', '.join(map(str, parts))}: {embedded:,} embedded and {skipped:,} skipped records, but "
            f"the input has {records:,}; make the parts again, all with one version"
        )
    provenance = {
        **headers[0].provenance,
        "shard": str(WHOLE),
        "batch_tokens": max(header.provenance["batch_tokens"] for header in headers),
        "embedded": embedded,
        "skipped": skipped,
    }
    if all("distinct" in header.provenance for header in headers):
        provenance["distinct"] = sum(header.provenance["distinct"] for header in headers)
    if "reuse" in provenance:
        counts = [[each["sequences"] for each in header.provenance["reuse"]] for header in headers]
        provenance["reuse"] = [
            {**each, "sequences": sum(of)}
            for each, of in zip(provenance["reuse"], zip(*counts, strict=True), strict=True)
        ]
    devices = dict.fromkeys(
        header.provenance["device"] for header in headers if "device" in header.provenance
    )
    if devices:
        provenance["device"] = " and ".join(devices)
    if halved := [each.provenance["halved_to"] for each in headers if "halved_to" in each.provenance]:
        provenance["halved_to"] = min(halved)
    rows = sum(header.n_rows for header in headers)
    residues = sum(header.n_residues for header in headers)
    return replace(headers[0], n_rows=rows, n_residues=residues, provenance=provenance, checksums=None)
