"""HDF5, in two layouts. The provenance is the root attribute `protrna`.

flat
    One dataset a row, named by its id: (D,), or (L, D) per token; the layout of the embedding files of
    UniProt, bio_embeddings and ProtTrans. The row's other columns are attributes, the id once more as
    `original_id`; in the name, `/` and `%` are percent-encoded. Creation order is tracked. Several layers are
    groups `layer_6`, `layer_33`.
packed
    `embeddings` (N, D), or (ΣL, D) with `offsets` (N + 1,) per token, and one dataset (N,) a column. Several
    layers are datasets `layer_6`, `layer_33` in the place of `embeddings`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from protrna_cli.errors import OutputUnwritable
from protrna_cli.output.rows import COUNT_COLUMNS, PROVENANCE_KEY, ROW_COLUMNS, Block, Header, Row

OFFSETS = "offsets"


def write_flat(path: Path, header: Header, blocks: Iterable[Block]) -> None:
    """Write one dataset a row.

    Raises
    ------
    OutputUnwritable
        An id is empty or repeats, so that it cannot be the name of a dataset.
    """
    with _created(path, header, blocks) as (file, blocks):
        groups = [file]
        if len(header.layers) > 1:
            groups = [file.create_group(name, track_order=True) for name in header.columns]
        for block in blocks:
            bounds = block.bounds() if header.per_token else range(len(block.rows) + 1)
            for row, start, end in zip(block.rows, bounds, bounds[1:], strict=False):
                for group, values in zip(groups, block.values, strict=True):
                    dataset = _dataset(group, row, values[start:end] if header.per_token else values[start])
                    dataset.attrs["original_id"] = row.id
                    for column in ROW_COLUMNS[1:]:
                        dataset.attrs[column] = getattr(row, column)


def write_packed(path: Path, header: Header, blocks: Iterable[Block]) -> None:
    """Write all rows into one dataset a layer."""
    with _created(path, header, blocks) as (file, blocks):
        shape = (header.n_vectors, header.width)
        matrices = [file.create_dataset(name, shape, header.dtype) for name in _matrices(header)]
        columns = {
            name: file.create_dataset(
                name, (header.n_rows,), np.int64 if name in COUNT_COLUMNS else h5py.string_dtype()
            )
            for name in ROW_COLUMNS
        }
        if header.per_token:
            file.create_dataset(OFFSETS, (header.n_rows + 1,), np.int64)
        n_rows = n_vectors = 0
        for block in blocks:
            rows = slice(n_rows, n_rows + len(block.rows))
            vectors = slice(n_vectors, n_vectors + len(block.values[0]))
            for name, column in columns.items():
                column[rows] = [getattr(row, name) for row in block.rows]
            for matrix, values in zip(matrices, block.values, strict=True):
                matrix[vectors] = values
            if header.per_token:
                file[OFFSETS][rows.start + 1 : rows.stop + 1] = np.array(block.bounds()[1:]) + n_vectors
            n_rows, n_vectors = rows.stop, vectors.stop


def read_header(path: Path) -> Header:
    """Read the header of an HDF5 file of ours.

    Raises
    ------
    ValueError
        It is not HDF5, or not ours.
    """
    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get(PROVENANCE_KEY)
    except OSError as error:
        raise ValueError(f"not a readable HDF5 file ({error})") from error
    if not isinstance(text, str):
        raise ValueError("an HDF5 file without the provenance of protrna")
    return Header.from_json(text)


def read_blocks(path: Path, header: Header) -> Iterator[Block]:
    """Read the rows of either layout, some at a time."""
    with h5py.File(path, "r") as file:
        packed = ROW_COLUMNS[0] in file and isinstance(file.get(ROW_COLUMNS[-1]), h5py.Dataset)
        yield from _packed_blocks(file, header) if packed else _flat_blocks(file, header)


def dataset_name(row_id: str) -> str:
    """Name of an id's dataset: `%` and `/` percent-encoded, and `.`, which HDF5 reads as "this group".

    >>> dataset_name("chr1/+ 50%")
    'chr1%2F+ 50%25'
    """
    name = row_id.replace("%", "%25").replace("/", "%2F")
    return name.replace(".", "%2E") if name == "." else name


class _PatientFile(io.FileIO):
    """A file that remembers its first failure and takes every write after that for done.

    HDF5 cannot close a file whose writes fail: its handles live on, complain on stderr until the process
    ends, and keep the disk busy. So it is told that all is well, and the failure is raised after the close.
    """

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            while view and self.failure is None:
                view = view[super().write(view) or 0 :]
        except OSError as error:
            self.failure = error
        return memoryview(data).nbytes

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0

    def check(self) -> None:
        """Raise the first failure, if there was one."""
        if self.failure:
            raise self.failure


@contextmanager
def _created(
    path: Path, header: Header, blocks: Iterable[Block]
) -> Iterator[tuple[h5py.File, Iterable[Block]]]:
    """Make a file; gives it, and the blocks to write, which end with the error when writing fails."""
    with _PatientFile(path, "w+") as raw:

        def checked() -> Iterator[Block]:
            for block in blocks:
                yield block
                raw.check()

        # Files of HDF5 1.8 (2008) and later: attributes and groups have no bound in them.
        with h5py.File(raw, "w", libver=("v108", "v110"), track_order=True) as file:
            file.attrs[PROVENANCE_KEY] = header.json
            yield file, checked()
        raw.check()


def _dataset(group: h5py.Group, row: Row, values: Any) -> h5py.Dataset:
    name = dataset_name(row.id)
    if not name or name in group:
        what = f"the id {row.id!r} repeats" if name else "a record has no id"
        raise OutputUnwritable(
            f"{what}, and flat HDF5 names a dataset by it; use --h5-layout packed, .parquet or .npy"
        )
    return group.create_dataset(name, data=values)


def _matrices(header: Header) -> tuple[str, ...]:
    return ("embeddings",) if len(header.layers) == 1 else header.columns


def _packed_blocks(file: h5py.File, header: Header, rows_a_block: int = 4096) -> Iterator[Block]:
    for start in range(0, header.n_rows, rows_a_block):
        rows = slice(start, min(start + rows_a_block, header.n_rows))
        columns = [
            file[name].asstr()[rows] if name not in COUNT_COLUMNS else file[name][rows].tolist()
            for name in ROW_COLUMNS
        ]
        vectors = slice(*file[OFFSETS][[rows.start, rows.stop]]) if header.per_token else rows
        yield Block(
            [Row(*values) for values in zip(*columns, strict=True)],
            [file[name][vectors] for name in _matrices(header)],
        )


def _flat_blocks(file: h5py.File, header: Header) -> Iterator[Block]:
    groups = [file] if len(header.layers) == 1 else [file[name] for name in header.columns]
    for name, dataset in groups[0].items():
        attributes = dataset.attrs
        row = Row(
            attributes["original_id"], attributes["description"], *(int(attributes[c]) for c in COUNT_COLUMNS)
        )
        yield Block([row], [np.atleast_2d(group[name][()]) for group in groups])
