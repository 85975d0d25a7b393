"""Read an output of any format, detected from the content, and check that it is undamaged.

Read the parts of a sharded run as one output; they must be complete and belong together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from protrna_cli.disk import open_regular
from protrna_cli.errors import InputError, InputUnreadable, ProtrnaError, RunMismatch
from protrna_cli.output.formats.table import opener_of, possible_files
from protrna_cli.output.paths import complete_path, is_part, partial_path
from protrna_cli.output.provenance import first_difference, run_key, shard_of
from protrna_cli.output.rows import Block, Checksum, Header, ReadableFile, Values
from protrna_cli.plan.rows import Row
from protrna_cli.plan.shard import WHOLE
from protrna_cli.text import reason

H5_MAGIC = b"\x89HDF"

SMALL_BYTES = 256 << 20
"""Outputs up to this size are read whole where a quick check is asked for: it takes about a second."""


def make_again(path: Path) -> str:
    """Say what to do about an output that is damaged."""
    if complete_path(path).exists():
        return f"{partial_path(path).name} has it complete: run the command that made it with --resume"
    return "make it again with --overwrite"


def read_output(path: Path) -> tuple[Header, Iterator[Block]]:
    """Open an output.

    Returns
    -------
    tuple
        The header, and an iterator that reads the blocks in order as they are needed.
    """
    file = _open(path)
    return file.header, _blocks(file)


def read_whole(path: Path) -> tuple[Header, Iterator[Block]]:
    """Open an output; reading it to the end fails unless it is complete and undamaged."""
    header, blocks = read_output(path)
    return header, _complete(path, header, blocks)


def read_rows(path: Path) -> Iterator[Row]:
    """Read the rows of an output without their embeddings; raises as `read_output` does."""
    file, number = _open(path), 0
    with _undamaged(path):
        for number, row in enumerate(file.rows(), start=1):
            _check_md5(row, file.header, number)
            yield row
        if number != file.header.n_rows:
            raise ValueError(f"it has {number:,} rows, but its header states {file.header.n_rows:,}")


def _check_md5(row: Row, header: Header, number: int) -> None:
    if header.has_md5 and not re.fullmatch("[0-9a-f]{32}", row.md5):
        raise ValueError(f"row {number}: its md5 is {row.md5!r}")


def read_layer(path: Path, column: int) -> tuple[list[Row], Values]:
    """Read the rows and the vectors (n_vectors, D) of a layer; they are mapped if the format allows."""
    file = _open(path)
    with _undamaged(path):
        file.check()
        values = file.mapped(column)
        if values is not None:
            rows = list(read_rows(path))
            if Checksum(file.header).rows_changed(rows):
                raise ValueError("ids or counts changed since it was written")
            return rows, values
    blocks = [(block.rows, block.values[column]) for block in read_whole(path)[1]]
    return [row for rows, _ in blocks for row in rows], np.concatenate([values for _, values in blocks])


def schema_of(path: Path) -> dict[str, str]:
    """List the columns or datasets of an output with type and shape; raises as `read_output` does."""
    file = _open(path)
    with _undamaged(path):
        return file.schema()


def refuse_changed_bytes(path: Path) -> None:
    """Refuse an HDF5 file whose bytes are not those that protrna wrote, before libhdf5 opens it."""
    from protrna_cli.output.formats import h5file  # imports h5py

    with suppress(OSError):  # opening it says why
        with open_regular(path) as file:
            is_hdf5 = file.read(4) == H5_MAGIC
        if is_hdf5:
            try:
                h5file.check(path)
            except ValueError as error:
                raise InputError(f"{path}: damaged ({error}); {make_again(path)}") from None


def check_structure(path: Path) -> None:
    """Check what reading an output does not: unused bytes, numbers of lines, what is behind its end."""
    file = _open(path)
    with _undamaged(path):
        file.check(thorough=True)


def check_quickly(path: Path) -> None:
    """Check that an output is undamaged: its sizes, types and counts, and all of a small one."""
    file = _open(path)
    with _undamaged(path):
        file.check()
        size = sum(file.stat().st_size for file in possible_files(path) if file.exists())
    if size <= SMALL_BYTES:
        for _ in read_whole(path)[1]:
            pass


def _open(path: Path) -> ReadableFile:
    """Detect the format of an output, and read its header."""
    try:
        with open_regular(path) as file:
            opener = opener_of(file.read(4))
    except OSError as error:
        raise InputUnreadable(f"{path}: cannot be read ({error.strerror or error}); check the path") from None
    if not opener:
        raise InputError(f"{path}: neither Parquet, HDF5 nor NumPy; name an output of protrna embed")
    try:
        return opener(path)
    except Exception as error:  # whatever a library raises on damaged bytes
        raise InputError(f"{path}: {_first_line(error)}; name an output of protrna embed") from error


def _blocks(file: ReadableFile) -> Iterator[Block]:
    n_rows = 0
    with _undamaged(file.path):
        for block in file.blocks():
            for number, row in enumerate(block.rows, start=n_rows + 1):
                _check_md5(row, file.header, number)
            n_rows += len(block.rows)
            yield block


def _complete(path: Path, header: Header, blocks: Iterator[Block]) -> Iterator[Block]:
    checksum, rows = Checksum(header), 0
    for block in checksum.watch(blocks):
        rows += len(block.rows)
        yield block
    if rows != header.n_rows:
        flaw = f"it has {rows:,} rows, but its header states {header.n_rows:,}"
        raise InputError(f"{path}: damaged ({flaw}); {make_again(path)}")
    for flaw in checksum.flaws():
        raise InputError(f"{path}: damaged ({flaw}); {make_again(path)}")


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """Turn whatever a library raises while it reads an output into our error."""
    try:
        yield
    except ProtrnaError:
        raise
    except Exception as error:
        raise InputError(f"{path}: damaged ({_first_line(error)}); {make_again(path)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


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
    keys = [{**run_key(one), "shard": None, "batch_tokens": None} for one in (header, first_header)]
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
        counts = [[source["sequences"] for source in header.provenance["reuse"]] for header in headers]
        provenance["reuse"] = [
            {**source, "sequences": sum(taken)}
            for source, taken in zip(provenance["reuse"], zip(*counts, strict=True), strict=True)
        ]
    devices = dict.fromkeys(
        header.provenance["device"] for header in headers if "device" in header.provenance
    )
    if devices:
        provenance["device"] = " and ".join(devices)
    if halved := [header.provenance["halved_to"] for header in headers if "halved_to" in header.provenance]:
        provenance["halved_to"] = min(halved)
    rows = sum(header.n_rows for header in headers)
    residues = sum(header.n_residues for header in headers)
    return replace(headers[0], n_rows=rows, n_residues=residues, provenance=provenance, checksums=None)
