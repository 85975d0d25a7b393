"""Outputs: which format a name asks for, and one module a format.

The format modules import pyarrow, h5py or NumPy, each only when its format is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from protrna_cli.errors import InputError, InputUnreadable, UsageError

if TYPE_CHECKING:
    from protrna_cli.output.rows import Block, Header

FORMATS = ("parquet", "h5", "npy")
H5_LAYOUTS = ("flat", "packed")

_SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".h5": "h5", ".hdf5": "h5", ".npy": "npy"}
_MAGIC = {b"PAR1": "parquet", b"\x89HDF": "h5", b"\x93NUM": "npy"}


def format_of(path: Path) -> str:
    """Format that a file's suffix asks for.

    Raises
    ------
    UsageError
        The suffix is none that we know.
    """
    try:
        return _SUFFIXES[path.suffix.lower()]
    except KeyError:
        known = ", ".join(_SUFFIXES)
        raise UsageError(
            f"{path}: no format has the suffix {path.suffix!r}; use {known}, or --format"
        ) from None


def files_of(path: Path, format: str) -> list[Path]:
    """All files of an output, the one that bears its name last."""
    if format != "npy":
        return [path]
    from protrna_cli.output import npy

    return [npy.index_path(path), npy.meta_path(path), path]


def write_output(path: Path, format: str, h5_layout: str, header: Header, blocks: Iterable[Block]) -> None:
    """Write a whole output in a format of `FORMATS`; `h5_layout` speaks for `h5` alone."""
    if format == "parquet":
        from protrna_cli.output import parquet

        parquet.write(path, header, blocks)
    elif format == "npy":
        from protrna_cli.output import npy

        npy.write(path, header, blocks)
    else:
        from protrna_cli.output import hdf5

        (hdf5.write_flat if h5_layout == "flat" else hdf5.write_packed)(path, header, blocks)


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
    try:
        with path.open("rb") as file:
            format = _MAGIC.get(file.read(4))
        if format == "parquet":
            from protrna_cli.output.parquet import read_blocks, read_header
        elif format == "h5":
            from protrna_cli.output.hdf5 import read_blocks, read_header
        elif format == "npy":
            from protrna_cli.output.npy import read_blocks, read_header
        else:
            raise InputError(f"{path}: neither Parquet, HDF5 nor NumPy; name an output of protrna embed")
        header = read_header(path)
    except OSError as error:
        raise InputUnreadable(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}; name an output of protrna embed") from error
    return header, read_blocks(path, header)
