"""Outputs: which format a name asks for, and one module a format.

The format modules import pyarrow, h5py or NumPy, each only when its format is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from protrna_cli.errors import InputError, InputUnreadable, UsageError

if TYPE_CHECKING:
    from protrna_cli.output.rows import Block, Header, Reader, Row, Writer

FORMATS = ("parquet", "h5", "npy")
"""What runs make, and what is read again."""

EXPORTS = ("h5ad", "tsv")
"""What is made for other programs, pooled alone."""

H5_LAYOUTS = ("flat", "packed")

_SUFFIXES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".h5": "h5",
    ".hdf5": "h5",
    ".npy": "npy",
    ".h5ad": "h5ad",
    ".tsv": "tsv",
}
_READERS = {b"PAR1": "parquet", b"\x89HDF": "hdf5", b"\x93NUM": "npy"}


def format_of(path: Path, formats: tuple[str, ...] = FORMATS) -> str:
    """Which of some formats a file's suffix asks for.

    Raises
    ------
    UsageError
        The suffix is of none of them.
    """
    format = _SUFFIXES.get(path.suffix.lower())
    if format in formats:
        return format
    remedy = f"use {', '.join(suffix for suffix, each in _SUFFIXES.items() if each in formats)}, or --format"
    if format:
        remedy = f"protrna convert makes {path.suffix} of an output; {remedy}"
    raise UsageError(f"{path}: no format has the suffix {path.suffix!r}; {remedy}")


def files_of(path: Path, format: str) -> list[Path]:
    """All files of an output, the one that bears its name last."""
    if format == "npy":
        from protrna_cli.output import npy

        return [npy.index_path(path), npy.meta_path(path), path]
    if format == "tsv":
        from protrna_cli.output import npy, projector

        return [projector.metadata_path(path), npy.meta_path(path), path]
    return [path]


def write_output(path: Path, format: str, h5_layout: str, header: Header, blocks: Iterable[Block]) -> None:
    """Write a whole output in a format of `FORMATS` or `EXPORTS`; `h5_layout` speaks for `h5` alone."""
    writers = {"h5": h5_layout, "tsv": "projector"}
    writer = cast("Writer", import_module(f"protrna_cli.output.{writers.get(format, format)}"))
    writer.write(path, header, blocks)


def read_output(path: Path) -> tuple[Header, Iterator[Block]]:
    """Open an output of any format, told by its content.

    Returns
    -------
    tuple
        Its header, and its rows in order, read as they are asked for.

    Raises
    ------
    InputUnreadable
        The file cannot be opened.
    InputError
        It is no output of ours.
    """
    reader, header = _opened(path)
    return header, reader.read_blocks(path, header)


def read_whole(path: Path) -> tuple[Header, Iterator[Block]]:
    """Open an output as `read_output` does; reading it ends with an error unless it is whole.

    Raises
    ------
    InputUnreadable, InputError
        As `read_output`; and, from the rows, when the file is damaged or lacks rows.
    """
    header, blocks = read_output(path)
    return header, _all_of(path, header, blocks)


def read_rows(path: Path) -> Iterator[Row]:
    """Read what stands beside the embeddings of an output; raises as `read_output` does."""
    reader, header = _opened(path)
    return reader.read_rows(path, header)


def schema_of(path: Path) -> dict[str, str]:
    """Name what stands in an output, each with its type and shape; raises as `read_output` does."""
    reader, header = _opened(path)
    return reader.schema(path, header)


def _opened(path: Path) -> tuple[Reader, Header]:
    """Find the module that reads an output, and read its header."""
    with _readable(path):
        with path.open("rb") as file:
            name = _READERS.get(file.read(4))
        if not name:
            raise InputError(f"{path}: neither Parquet, HDF5 nor NumPy; name an output of protrna embed")
        reader = cast("Reader", import_module(f"protrna_cli.output.{name}"))
        return reader, reader.read_header(path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what goes wrong while reading an output into our error."""
    try:
        yield
    except OSError as error:
        raise InputUnreadable(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}; name an output of protrna embed") from error


def _all_of(path: Path, header: Header, blocks: Iterator[Block]) -> Iterator[Block]:
    rows = 0
    try:
        for block in blocks:
            rows += len(block.rows)
            yield block
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: damaged ({error}); make it again") from error
    if rows != header.n_rows:
        raise InputError(f"{path}: has {rows:,} rows, and says that it has {header.n_rows:,}; make it again")
