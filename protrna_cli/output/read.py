"""Read an output of any format; the format is detected from the content."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protrna_cli.disk import open_regular
from protrna_cli.errors import InputError, InputUnreadable
from protrna_cli.output.formats.table import reader_of
from protrna_cli.output.rows import Block, Header, Reader
from protrna_cli.plan.rows import Row


def read_output(path: Path) -> tuple[Header, Iterator[Block]]:
    """Open an output.

    Returns
    -------
    tuple
        Its header, and an iterator over its blocks in order, which are read lazily.

    Raises
    ------
    InputUnreadable
        The file cannot be opened.
    InputError
        It is not an output of protrna.
    """
    reader, header = _open(path)
    return header, reader.read_blocks(path, header)


def read_whole(path: Path) -> tuple[Header, Iterator[Block]]:
    """Open an output as `read_output` does; reading it to the end fails unless it is complete.

    Raises
    ------
    InputUnreadable, InputError
        As `read_output`; also from the iterator, if the file is damaged or rows are missing.
    """
    header, blocks = read_output(path)
    return header, _checked_blocks(path, header, blocks)


def read_rows(path: Path) -> Iterator[Row]:
    """Read the rows of an output without their embeddings; raises as `read_output` does."""
    reader, header = _open(path)
    return reader.read_rows(path, header)


def schema_of(path: Path) -> dict[str, str]:
    """List the columns or datasets of an output with type and shape; raises as `read_output` does."""
    reader, header = _open(path)
    return reader.schema(path, header)


def _open(path: Path) -> tuple[Reader, Header]:
    """Find the module that reads an output, and read its header."""
    with _reading(path):
        with open_regular(path) as file:
            reader = reader_of(file.read(4))
        if not reader:
            raise InputError(f"{path}: neither Parquet, HDF5 nor NumPy; name an output of protrna embed")
        return reader, reader.read_header(path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn a failure to read an output in this context into our error."""
    try:
        yield
    except OSError as error:
        raise InputUnreadable(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}; name an output of protrna embed") from error


def _checked_blocks(path: Path, header: Header, blocks: Iterator[Block]) -> Iterator[Block]:
    rows = 0
    try:
        for block in blocks:
            rows += len(block.rows)
            yield block
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: damaged ({error}); make it again") from error
    if rows != header.n_rows:
        raise InputError(f"{path}: has {rows:,} rows, but its header states {header.n_rows:,}; make it again")
