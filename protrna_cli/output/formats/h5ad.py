"""AnnData's `.h5ad`, for scanpy: records are observations, the D dimensions are variables.

One layer is `X` (N, D); several are `obsm["layer_6"]`, `obsm["layer_33"]`, and there is no `X`. `obs` has the
other columns, and the ids as its index; `uns["protrna"]` is the provenance. The file is written block by
block, without AnnData, as specified at https://anndata.readthedocs.io/en/stable/fileformat-prose.html.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import final

import h5py
import numpy as np

from protrna_cli.output.formats.h5file import created, new_group
from protrna_cli.output.formats.packed import PackedHdf5
from protrna_cli.output.rows import PROVENANCE_KEY, Block, Header

DIMENSION = "dimension"
DICTIONARIES = ("layers", "obsm", "obsp", "uns", "varm", "varp")
"""Groups that every AnnData file has, most of them empty here."""


@final
class Anndata(PackedHdf5):
    """A packed HDF5 file of pooled rows, with the names and attributes of AnnData."""

    columns = "obs"

    @property
    def matrices(self) -> tuple[str, ...]:
        columns = self.header.columns
        return ("X",) if len(columns) == 1 else tuple(f"obsm/{name}" for name in columns)

    def write(self, blocks: Iterable[Block], seal: Callable[[], Header]) -> None:
        with created(self.path, seal) as (file, check):
            for name in (*DICTIONARIES, "obs", "var"):
                new_group(file, name)
            self.fill(file, blocks, check)
            width = self.header.width if self.matrices == ("X",) else 0
            names = [str(i) for i in range(width)]
            file.create_dataset(f"var/{DIMENSION}", data=names, dtype=h5py.string_dtype())
            file.create_dataset(f"uns/{PROVENANCE_KEY}", data=seal().json)
            self._mark_all(file)

    def _mark_all(self, file: h5py.File) -> None:
        """Add AnnData's encoding attributes to every group and dataset."""
        _mark(file, "anndata", "0.1.0")
        for name in DICTIONARIES:
            _mark(file[name], "dict", "0.1.0")
        row_id, *others = self.header.row_columns
        for name, index, columns in (("obs", row_id, others), ("var", DIMENSION, [])):
            table = file[name]
            _mark(table, "dataframe", "0.2.0")
            table.attrs["_index"] = index
            table.attrs["column-order"] = np.array(columns, h5py.string_dtype())
            for column in table.values():
                _mark(column, "string-array" if h5py.check_string_dtype(column.dtype) else "array", "0.2.0")
        for name in self.matrices:
            _mark(file[name], "array", "0.2.0")
        _mark(file[f"uns/{PROVENANCE_KEY}"], "string", "0.2.0")


def _mark(item: h5py.Group | h5py.Dataset, kind: str, version: str) -> None:
    item.attrs["encoding-type"] = kind
    item.attrs["encoding-version"] = version
