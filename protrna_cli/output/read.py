"""Read an output of any format, detected from the content, and check that it is undamaged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from protrna_cli.disk import open_regular
from protrna_cli.errors import InputError, InputUnreadable, ProtrnaError
from protrna_cli.output.checksum import Checksum
from protrna_cli.output.formats.table import possible_files, reader_of
from protrna_cli.output.paths import complete_path, partial_path
from protrna_cli.output.rows import Block, Header, Reader, Values
from protrna_cli.plan.rows import Row

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
    reader, header = _open(path)
    return header, _blocks(path, reader, header)


def read_whole(path: Path) -> tuple[Header, Iterator[Block]]:
    """Open an output; reading it to the end fails unless it is complete and undamaged."""
    header, blocks = read_output(path)
    return header, _complete(path, header, blocks)


def read_rows(path: Path) -> Iterator[Row]:
    """Read the rows of an output without their embeddings; raises as `read_output` does."""
    reader, header = _open(path)
    number = 0
    with _undamaged(path):
        for number, row in enumerate(reader.read_rows(path, header), start=1):
            _check_md5(row, header, number)
            yield row
        if number != header.n_rows:
            raise ValueError(f"it has {number:,} rows, but its header states {header.n_rows:,}")


def _check_md5(row: Row, header: Header, number: int) -> None:
    if header.has_md5 and not re.fullmatch("[0-9a-f]{32}", row.md5):
        raise ValueError(f"row {number}: its md5 is {row.md5!r}")


def read_layer(path: Path, column: int) -> tuple[list[Row], Values]:
    """Read the rows and the vectors (n_vectors, D) of a layer; they are mapped if the format allows."""
    reader, header = _open(path)
    with _undamaged(path):
        reader.check(path, header)
        values = reader.mapped(path, header, column)
        if values is not None:
            rows = list(read_rows(path))
            if Checksum(header).rows_changed(rows):
                raise ValueError("ids or counts changed since it was written")
            return rows, values
    blocks = [(block.rows, block.values[column]) for block in read_whole(path)[1]]
    return [row for rows, _ in blocks for row in rows], np.concatenate([values for _, values in blocks])


def schema_of(path: Path) -> dict[str, str]:
    """List the columns or datasets of an output with type and shape; raises as `read_output` does."""
    reader, header = _open(path)
    with _undamaged(path):
        return reader.schema(path, header)


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
    reader, header = _open(path)
    with _undamaged(path):
        reader.check(path, header, thorough=True)


def check_quickly(path: Path) -> None:
    """Check that an output is undamaged: its sizes, types and counts, and all of a small one."""
    reader, header = _open(path)
    with _undamaged(path):
        reader.check(path, header)
        size = sum(file.stat().st_size for file in possible_files(path) if file.exists())
    if size <= SMALL_BYTES:
        for _ in read_whole(path)[1]:
            pass


def _open(path: Path) -> tuple[Reader, Header]:
    """Find the module that reads an output, and read its header."""
    try:
        with open_regular(path) as file:
            reader = reader_of(file.read(4))
    except OSError as error:
        raise InputUnreadable(f"{path}: cannot be read ({error.strerror or error}); check the path") from None
    if not reader:
        raise InputError(f"{path}: neither Parquet, HDF5 nor NumPy; name an output of protrna embed")
    try:
        return reader, reader.read_header(path)
    except Exception as error:  # whatever a library raises on damaged bytes
        raise InputError(f"{path}: {_first_line(error)}; name an output of protrna embed") from error


def _blocks(path: Path, reader: Reader, header: Header) -> Iterator[Block]:
    n_rows = 0
    with _undamaged(path):
        for block in reader.read_blocks(path, header):
            for number, row in enumerate(block.rows, start=n_rows + 1):
                _check_md5(row, header, number)
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
