"""Formats that are only written, for other programs: NumPy's `.npz`, and TSV for the Embedding Projector.

`.npz` has the arrays `embedding` (N, D) of one layer, `id` and the other columns (N,), and `protrna`.
`numpy.load` reads it without pickle. The columns are arrays of text or of int64; `protrna` is the provenance
as JSON. It is a zip archive whose vectors are stored as they are, so that they are written block by block,
and whose columns are compressed, because NumPy stores all texts of an array with the length of the longest.
https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html

TSV for the TensorBoard Embedding Projector is `OUT`, with `OUT.metadata.tsv` and `OUT.meta.json` beside it.
`OUT` has one line per record and no header: D numbers, each the shortest text that reads back to the same
float32. The metadata has a header, then one line per record with the row's columns. The projector does not
support quotes, so a tab or a line end in a description becomes a space. `OUT.meta.json` is the provenance.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import IO, Any, final
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np
import pyarrow as pa
from pyarrow import csv

from protrna_cli.errors import OutputUnwritable
from protrna_cli.output.files import metadata_path
from protrna_cli.output.formats.npy import array_header, write_meta
from protrna_cli.output.rows import PROVENANCE_KEY, Block, Header, OutputFile
from protrna_cli.text import size_text

LARGEST_COLUMN = 4 << 30
"""Most bytes of a column as an array in memory, which one long description could make very large."""

VALUES_AT_ONCE = 4096

_SPACES = str.maketrans("\t\r\n", "   ")


@final
class Npz(OutputFile):
    """An archive of arrays."""

    def write(self, blocks: Iterable[Block], seal: Callable[[], Header]) -> None:
        header = self.header
        columns: dict[str, list[Any]] = {name: [] for name in header.row_columns}
        with ZipFile(self.path, "w") as archive:
            shape = (header.n_rows, header.width)
            with _array(archive, "embedding", np.dtype(header.dtype), shape, ZIP_STORED) as file:
                for block in blocks:
                    file.write(np.ascontiguousarray(block.values[0], header.dtype).data.cast("B"))
                    for name, column in columns.items():
                        column += [getattr(row, name) for row in block.rows]
            for name, column in columns.items():
                _write_column(archive, name, column)
            _write_column(archive, PROVENANCE_KEY, seal().json)


def _write_column(archive: ZipFile, name: str, values: list[Any] | str) -> None:
    """Write a column (n,), or one text, as an array without Python objects."""
    listed = [values] if isinstance(values, str) else values
    dtype = np.dtype(np.int64)
    if not listed or isinstance(listed[0], str):
        dtype = np.dtype(f"<U{max(map(len, listed), default=1) or 1}")
    size = len(listed) * dtype.itemsize
    if size > LARGEST_COLUMN:
        raise OutputUnwritable(
            f"the column {name} would be an array of {size_text(size)}, because NumPy stores all texts with "
            "the length of the longest; use .parquet or .npy"
        )
    shape = () if isinstance(values, str) else (len(listed),)
    remaining = iter(listed)
    with _array(archive, name, dtype, shape, ZIP_DEFLATED) as file:
        while part := list(islice(remaining, VALUES_AT_ONCE)):
            file.write(np.array(part, dtype).tobytes())


@contextmanager
def _array(
    archive: ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], compression: int
) -> Iterator[IO[bytes]]:
    """Begin an array of an archive; its values are written next."""
    member = ZipInfo(f"{name}.npy")  # without the time, so that equal outputs have equal bytes
    member.compress_type = compression
    with archive.open(member, "w", force_zip64=True) as file:
        file.write(array_header(dtype, shape))
        yield file


@final
class Tsv(OutputFile):
    """A table of vectors, with metadata and provenance."""

    def write(self, blocks: Iterable[Block], seal: Callable[[], Header]) -> None:
        header = self.header
        schema = pa.schema([(str(i), pa.float32()) for i in range(header.width)])
        options = csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
        with (
            pa.OSFile(os.fsencode(self.path), "wb") as file,  # bytes: it need not be UTF-8
            csv.CSVWriter(file, schema, write_options=options) as vectors,
            metadata_path(self.path).open("w", encoding="utf-8", newline="") as metadata,
        ):
            metadata.write("\t".join(header.row_columns) + "\n")
            for block in blocks:
                columns = [pa.array(column) for column in np.ascontiguousarray(block.values[0].T, np.float32)]
                vectors.write_table(pa.Table.from_arrays(columns, schema=schema))
                for row in block.rows:
                    texts = [str(getattr(row, name)).translate(_SPACES) for name in header.row_columns]
                    metadata.write("\t".join(texts) + "\n")
        write_meta(self.path, seal())
