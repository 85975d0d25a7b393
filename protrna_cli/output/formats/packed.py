"""Packed HDF5: one matrix per layer, and one dataset (N,) per column.

`embeddings` is (N, D), or (ΣL, D) with `offsets` (N + 1,) per token. With several layers, datasets `layer_6`,
`layer_33` replace `embeddings`. AnnData files have the same content under other names, see `h5ad`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from protrna_cli.output.formats.h5file import created
from protrna_cli.output.rows import Block, Header, spans
from protrna_cli.plan.rows import COUNT_COLUMNS, Row

OFFSETS = "offsets"
ROWS_PER_READ = 4096


class DatasetNames(NamedTuple):
    """Names of the groups and datasets in a file.

    Attributes
    ----------
    columns
        Group of the columns.
    matrices
        Matrices, one dataset per layer.
    """

    columns: str
    matrices: tuple[str, ...]


def dataset_names(header: Header) -> DatasetNames:
    """Names in the packed layout."""
    return DatasetNames("/", ("embeddings",) if len(header.layers) == 1 else header.columns)


def write(path: Path, header: Header, blocks: Iterable[Block], seal: Callable[[], Header]) -> None:
    """Write a whole packed file."""
    with created(path, seal) as (file, check):
        fill(file, header, blocks, dataset_names(header), check)


def fill(
    file: h5py.File, header: Header, blocks: Iterable[Block], names: DatasetNames, check: Callable[[], None]
) -> None:
    """Write the columns and matrices under the names `at`; `check` raises an earlier write error.

    The group of the columns, and those of the matrices, must be there.
    """
    shape = (header.n_vectors, header.width)
    matrices = [file.create_dataset(name, shape, header.dtype) for name in names.matrices]
    table = file[names.columns]
    columns = {
        name: table.create_dataset(
            name, (header.n_rows,), np.int64 if name in COUNT_COLUMNS else h5py.string_dtype()
        )
        for name in header.row_columns
    }
    if header.per_token:
        file.create_dataset(OFFSETS, (header.n_rows + 1,), np.int64)
    n_rows = n_vectors = 0
    for block in blocks:
        check()
        rows = slice(n_rows, n_rows + len(block.rows))
        vectors = slice(n_vectors, n_vectors + len(block.values[0]))
        for name, column in columns.items():
            column[rows] = [getattr(row, name) for row in block.rows]
        for matrix, values in zip(matrices, block.values, strict=True):
            matrix[vectors] = values
        if header.per_token:
            file[OFFSETS][rows.start + 1 : rows.stop + 1] = np.array(block.bounds()[1:]) + n_vectors
        n_rows, n_vectors = rows.stop, vectors.stop


def read_blocks(file: h5py.File, header: Header, names: DatasetNames) -> Iterator[Block]:
    """Read the rows, one block at a time."""
    check(file, header, names)
    for rows, start, end in spans(read_rows(file, header, names), header):
        yield Block(rows, [file[name][start:end] for name in names.matrices])


def read_rows(file: h5py.File, header: Header, names: DatasetNames) -> Iterator[Row]:
    """Read the rows without their vectors."""
    table = file[names.columns]
    for start in range(0, header.n_rows, ROWS_PER_READ):
        part = slice(start, start + ROWS_PER_READ)
        columns = [
            table[name][part].tolist() if name in COUNT_COLUMNS else table[name].asstr()[part]
            for name in header.row_columns
        ]
        rows = [Row(*values) for values in zip(*columns, strict=True)]
        if header.per_token:
            _check_offsets(file[OFFSETS][start : start + len(rows) + 1], rows)
        yield from rows


def check(file: h5py.File, header: Header, names: DatasetNames) -> None:
    """Compare shapes and types with the header; raises ValueError if one differs."""
    expected: dict[str, tuple[Any, tuple[int, ...]]] = {
        name: (np.dtype(header.dtype), (header.n_vectors, header.width)) for name in names.matrices
    }
    for name in header.row_columns:
        dtype = np.dtype(np.int64) if name in COUNT_COLUMNS else h5py.string_dtype()
        expected[f"{names.columns}/{name}"] = dtype, (header.n_rows,)
    if header.per_token:
        expected[OFFSETS] = np.dtype(np.int64), (header.n_rows + 1,)
    for name, (dtype, shape) in expected.items():
        dataset = file[name]
        if (dataset.dtype, dataset.shape) != (dtype, shape):
            raise ValueError(f"{name} is {dataset.dtype} {dataset.shape}, not {dtype} {shape}")


def _check_offsets(offsets: Any, rows: list[Row]) -> None:
    """Compare some consecutive offsets (n + 1,) with the lengths of their rows."""
    wrong = np.flatnonzero(np.diff(offsets) != [row.n_embedded for row in rows])
    if wrong.size:
        raise ValueError(f"the offsets of the id {rows[wrong[0]].id!r} do not fit its length")


def schema(file: h5py.File) -> dict[str, str]:
    """List the datasets with type and shape."""
    found: dict[str, str] = {}

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            kind = "string" if h5py.check_string_dtype(item.dtype) else item.dtype
            found[name] = f"{kind} {item.shape}"

    file.visititems(add)
    return found
