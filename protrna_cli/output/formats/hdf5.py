"""Open HDF5 in any of three layouts, detected from the file: `flat`, `packed`, and AnnData's `h5ad`.

The provenance is the root attribute `protrna`.
"""

from __future__ import annotations

from pathlib import Path

from protrna_cli.output.formats.flat import FlatHdf5
from protrna_cli.output.formats.h5ad import Anndata
from protrna_cli.output.formats.h5file import opened
from protrna_cli.output.formats.packed import PackedHdf5
from protrna_cli.output.rows import PROVENANCE_KEY, Header, ReadableFile
from protrna_cli.plan.rows import ROW_COLUMNS


def open_file(path: Path) -> ReadableFile:
    """Read the header of an HDF5 output, and detect its layout."""
    with opened(path) as file:
        text = file.attrs.get(PROVENANCE_KEY)
        if not isinstance(text, str):
            raise ValueError("an HDF5 file without protrna provenance")
        header = Header.from_json(text)
        if file.attrs.get("encoding-type") == "anndata":
            return Anndata(path, header)
        column = file.get(ROW_COLUMNS[0])
        # In the flat layout columns are attributes, and a dataset `id` is a record with the id `id`.
        is_flat = column is None or "original_id" in column.attrs
    return FlatHdf5(path, header) if is_flat else PackedHdf5(path, header)
