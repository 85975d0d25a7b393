"""Flat HDF5: one dataset per row, named after its id, of shape (D,), or (L, D) per token.

The embedding files of UniProt, bio_embeddings and ProtTrans have this layout. `/` and `%` are percent-encoded
in the name; the attribute `original_id` is the id itself, and the row's other columns are attributes too.
Creation order is tracked. Several layers are groups `layer_6`, `layer_33`. The root attribute `model_name` is
for ProtSpace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, final

import h5py
import numpy as np

from protrna_cli.errors import OutputUnwritable
from protrna_cli.output.formats.h5file import created, new_group, opened
from protrna_cli.output.rows import Block, Header, ReadableFile, chosen, spans
from protrna_cli.plan.rows import Row, row_of


@final
class FlatHdf5(ReadableFile):
    """An HDF5 file with one dataset per row."""

    def write(self, blocks: Iterable[Block], seal: Callable[[], Header]) -> None:
        header = self.header
        with created(self.path, seal) as (file, check):
            if name := self._model_name():
                file.attrs["model_name"] = name
            groups = [file]
            if len(header.layers) > 1:
                groups = [new_group(file, name, track_order=True) for name in header.columns]
            for block in blocks:
                for row, vectors in block.by_row(header.per_token):
                    check()  # for every row: HDF5 may try to read data whose write failed
                    for group, values in zip(groups, vectors, strict=True):
                        dataset = _create_dataset(group, row, values if header.per_token else values[0])
                        dataset.attrs["original_id"] = row.id
                        for column in header.row_columns[1:]:
                            dataset.attrs[column] = getattr(row, column)

    def _model_name(self) -> str | None:
        """Name in ProtSpace: model, layer and pooling; None for vectors that it cannot read.

        ProtSpace merges files of equal names. It refuses a file without one, which it must: of several layers
        it would keep the first and drop the others with a warning.
        """
        header = self.header
        model = header.provenance.get("model")
        if model is None or header.per_token or len(header.layers) > 1:
            return None
        return f"{Path(model['name']).name} layer {header.layers[0]} {header.provenance['pooling']}"

    def blocks(self, columns: Sequence[int] | None = None) -> Iterator[Block]:
        with opened(self.path) as file:
            groups = self._groups(file)
            read = chosen(groups, columns)
            for rows, _, _ in spans(self._rows(groups[0]), self.header):
                yield Block(rows, [np.concatenate([self._vectors(g, row) for row in rows]) for g in read])

    def rows(self) -> Iterator[Row]:
        with opened(self.path) as file:
            yield from self._rows(self._groups(file)[0])

    def check(self, thorough: bool = False) -> None:
        n_rows = self.header.n_rows
        with opened(self.path, thorough) as file:
            for group in self._groups(file):
                if len(group) != n_rows:
                    raise ValueError(f"it has {len(group):,} datasets, but its header states {n_rows:,} rows")

    def mapped(self, column: int) -> None:
        """Return None: each row has its own dataset."""

    def schema(self) -> dict[str, str]:
        """Describe the datasets and their attributes, with `ID` for any id."""
        header = self.header
        shape = f"{header.dtype} {'(L, D)' if header.per_token else '(D,)'}"
        groups = [""] if len(header.layers) == 1 else [f"{name}/" for name in header.columns]
        attributes = ", ".join(("original_id", *header.row_columns[1:]))
        return {**{f"{group}ID": shape for group in groups}, "attributes of ID": attributes}

    def _groups(self, file: h5py.File) -> list[Any]:
        """Group with the datasets of each layer; with one layer, the file itself."""
        return [file] if len(self.header.layers) == 1 else [file[name] for name in self.header.columns]

    def _rows(self, group: h5py.Group) -> Iterator[Row]:
        """Read the rows from the attributes."""
        for name, dataset in group.items():
            attributes = dataset.attrs
            if dataset_name(attributes["original_id"]) != name:
                raise ValueError(f"dataset {name!r} belongs to the id {attributes['original_id']!r}")
            yield row_of({**attributes, "id": attributes["original_id"]}, self.header.row_columns)

    def _vectors(self, group: h5py.Group, row: Row) -> Any:
        """Read the vectors (n, D) of a row."""
        dataset, header = group[dataset_name(row.id)], self.header
        shape = (row.n_embedded, header.width) if header.per_token else (header.width,)
        if (dataset.shape, dataset.dtype) != (shape, np.dtype(header.dtype)):
            raise ValueError(
                f"dataset {dataset.name!r} is {dataset.dtype} {dataset.shape}, not {header.dtype} {shape}"
            )
        return np.atleast_2d(dataset[()])


def require_unique_ids(rows: Iterable[Row]) -> None:
    """Check that every id can be the name of a flat HDF5 dataset; the ids are kept in memory."""
    seen: set[str] = set()
    for row in rows:
        if not row.id or row.id in seen:
            raise _id_error(row.id)
        seen.add(row.id)


def dataset_name(row_id: str) -> str:
    """Dataset name of an id: `%`, `/` and the id `.` (to HDF5 "this group") are percent-encoded.

    >>> dataset_name("chr1/+ 50%")
    'chr1%2F+ 50%25'
    """
    name = row_id.replace("%", "%25").replace("/", "%2F")
    return name.replace(".", "%2E") if name == "." else name


def _create_dataset(group: h5py.Group, row: Row, values: Any) -> h5py.Dataset:
    name = dataset_name(row.id)
    if not name or name in group:
        raise _id_error(row.id)
    return group.create_dataset(name, data=values)


def _id_error(row_id: str) -> OutputUnwritable:
    what = f"the id {row_id!r} repeats" if row_id else "a record has no id"
    return OutputUnwritable(
        f"{what}, and flat HDF5 names a dataset by it; use --h5-layout packed, .parquet or .npy"
    )
