"""Packed HDF5: one matrix per layer, and one dataset (N,) per column.

`embeddings` is (N, D), or (ΣL, D) with `offsets` (N + 1,) per token. With several layers, datasets `layer_6`,
`layer_33` replace `embeddings`. AnnData files have the same content under other names, see `h5ad`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import h5py
import numpy as np

from protrna_cli.output.formats.h5file import created, opened
from protrna_cli.output.rows import Block, Header, ReadableFile, Values, chosen, spans
from protrna_cli.plan.rows import COUNT_COLUMNS, Row

OFFSETS = "offsets"
ROWS_PER_READ = 4096


class PackedHdf5(ReadableFile):
    """An HDF5 file with one dataset per column.

    Attributes
    ----------
    columns
        Group of the columns.
    """

    columns = "/"

    @property
    def matrices(self) -> tuple[str, ...]:
        """Matrices, one dataset per layer."""
        return ("embeddings",) if len(self.header.layers) == 1 else self.header.columns

    def write(self, blocks: Iterable[Block], seal: Callable[[], Header]) -> None:
        with created(self.path, seal) as (file, check):
            self.fill(file, blocks, check)

    def fill(self, file: h5py.File, blocks: Iterable[Block], check: Callable[[], None]) -> None:
        """Write columns and matrices, whose groups must be there; `check` raises an earlier write error."""
        header = self.header
        shape = (header.n_vectors, header.width)
        matrices = [file.create_dataset(name, shape, header.dtype) for name in self.matrices]
        table = file[self.columns]
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

    def blocks(self, columns: Sequence[int] | None = None) -> Iterator[Block]:
        with opened(self.path) as file:
            self._check(file)
            read = chosen(self.matrices, columns)
            for rows, start, end in spans(self._rows(file), self.header):
                yield Block(rows, [file[name][start:end] for name in read])

    def rows(self) -> Iterator[Row]:
        with opened(self.path) as file:
            yield from self._rows(file)

    def check(self, thorough: bool = False) -> None:
        with opened(self.path, thorough) as file:
            self._check(file)

    def mapped(self, column: int) -> Values | None:
        with opened(self.path) as file:
            dataset = file[self.matrices[column]]
            offset = dataset.id.get_offset()
            if offset is None:  # another program stored it in chunks
                return None
            return np.memmap(self.path, dataset.dtype, "r", offset, dataset.shape)

    def schema(self) -> dict[str, str]:
        found: dict[str, str] = {}

        def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
            if isinstance(item, h5py.Dataset):
                kind = "string" if h5py.check_string_dtype(item.dtype) else item.dtype
                found[name] = f"{kind} {item.shape}"

        with opened(self.path) as file:
            file.visititems(add)
        return found

    def _rows(self, file: h5py.File) -> Iterator[Row]:
        header, table = self.header, file[self.columns]
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

    def _check(self, file: h5py.File) -> None:
        """Compare shapes and types with the header."""
        header = self.header
        expected: dict[str, tuple[Any, tuple[int, ...]]] = {
            name: (np.dtype(header.dtype), (header.n_vectors, header.width)) for name in self.matrices
        }
        for name in header.row_columns:
            dtype = np.dtype(np.int64) if name in COUNT_COLUMNS else h5py.string_dtype()
            expected[f"{self.columns}/{name}"] = dtype, (header.n_rows,)
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
