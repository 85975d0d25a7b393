"""Read HDF5 in any of three layouts, detected from the file: `flat`, `packed`, and AnnData's `h5ad`.

The provenance is the root attribute `protrna`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from protrna_cli.output.formats import flat, h5ad, packed
from protrna_cli.output.formats.h5file import check_bytes, opened
from protrna_cli.output.rows import PROVENANCE_KEY, Block, Header, Values
from protrna_cli.plan.rows import ROW_COLUMNS, Row


def read_header(path: Path) -> Header:
    """Read the header of an HDF5 output."""
    with opened(path) as file:
        text = file.attrs.get(PROVENANCE_KEY)
    if not isinstance(text, str):
        raise ValueError("an HDF5 file without protrna provenance")
    return Header.from_json(text)


def read_blocks(path: Path, header: Header) -> Iterator[Block]:
    """Read the rows, one block at a time."""
    with opened(path) as file:
        if _is_flat(file):
            yield from flat.read_blocks(file, header)
        else:
            yield from packed.read_blocks(file, header, _dataset_names(file, header))


def read_rows(path: Path, header: Header) -> Iterator[Row]:
    """Read the rows without their vectors."""
    with opened(path) as file:
        if _is_flat(file):
            yield from flat.read_rows(file, header)
        else:
            yield from packed.read_rows(file, header, _dataset_names(file, header))


def mapped(path: Path, header: Header, column: int) -> Values | None:
    """Map the vectors (n_vectors, D) of a layer into memory; None in the flat layout."""
    with opened(path) as file:
        if _is_flat(file):
            return None
        dataset = file[_dataset_names(file, header).matrices[column]]
        offset = dataset.id.get_offset()
        if offset is None:  # another program stored it in chunks
            return None
        return np.memmap(path, dataset.dtype, "r", offset, dataset.shape)


def check(path: Path, header: Header, thorough: bool = False) -> None:
    """Compare shapes and types, and thoroughly all bytes, with what was written."""
    if thorough:  # if not, opening a large file does not compare its bytes
        status = path.stat()
        check_bytes(path, status.st_size, status.st_mtime_ns)
    with opened(path) as file:
        if _is_flat(file):
            flat.check(file, header)
        else:
            packed.check(file, header, _dataset_names(file, header))


def schema(path: Path, header: Header) -> dict[str, str]:
    """List the datasets with type and shape."""
    with opened(path) as file:
        return flat.schema(header) if _is_flat(file) else packed.schema(file)


def _is_flat(file: h5py.File) -> bool:
    """Whether the layout is flat: columns are attributes. A dataset `id` may be a record with the id `id`."""
    column = file.get(ROW_COLUMNS[0])
    return not h5ad.is_ours(file) and (column is None or "original_id" in column.attrs)


def _dataset_names(file: h5py.File, header: Header) -> packed.DatasetNames:
    return h5ad.dataset_names(header) if h5ad.is_ours(file) else packed.dataset_names(header)
