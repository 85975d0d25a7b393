"""Parquet: one row group per block, vectors as fixed-size lists, zstd over byte-stream-split float32.

Layout: the columns `id` to `md5` of `Row`, then one column per layer: `fixed_size_list<D>` pooled,
`list<fixed_size_list<D>>` per token. The provenance is in the metadata of the schema, the checksums are in
those of the file.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from protrna_cli.output.rows import PROVENANCE_KEY, Block, Header, ReadableFile, Values, chosen
from protrna_cli.plan.pieces import COUNT_COLUMNS, Row

CHECKSUMS_KEY = "protrna_checksums"
"""Of the file's own metadata: the schema, with the provenance, is fixed before the first row."""


class ParquetStream:
    """Writer of a Parquet file, block by block; the file can be read once it is closed.

    where: an open file or a stream, which is written sequentially. It stays open.
    """

    def __init__(self, where: pa.NativeFile | io.RawIOBase, header: Header) -> None:
        self._header = header
        self._schema = _schema(header)
        self._writer = pq.ParquetWriter(
            where,
            self._schema,
            compression="zstd",
            use_dictionary=False,  # values of vectors hardly repeat; zstd finds repeats in descriptions
            use_byte_stream_split=_split_columns(header),
            write_statistics=list(header.row_columns),
        )

    def add(self, block: Block) -> None:
        """Write a block as a row group."""
        self._writer.write_table(_table(block, self._header, self._schema))

    def close(self, sealed: Header | None = None) -> None:
        """Write the footer, which completes the file, with the checksums of a sealed header."""
        if sealed:
            self._writer.add_key_value_metadata({CHECKSUMS_KEY: json.dumps(sealed.checksums)})
        self._writer.close()


@final
class Parquet(ReadableFile):
    """A Parquet file."""

    def write(self, blocks: Iterable[Block], seal: Callable[[], Header]) -> None:
        name = os.fsencode(self.path)
        with pa.OSFile(name, "wb") as file, closing(ParquetStream(file, self.header)) as stream:
            for block in blocks:
                stream.add(block)
            stream.close(seal())

    def blocks(self, columns: Sequence[int] | None = None) -> Iterator[Block]:
        header, vectors = self.header, chosen(self.header.columns, columns)
        with _opened(self.path) as file:
            self._check_columns(file)
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, [*header.row_columns, *vectors])
                yield Block(list(_rows(table, header)), [_vectors(table[name], header) for name in vectors])

    def rows(self) -> Iterator[Row]:
        with _opened(self.path) as file:
            for batch in file.iter_batches(columns=list(self.header.row_columns)):
                yield from _rows(batch, self.header)

    def check(self, thorough: bool = False) -> None:
        with _opened(self.path) as file:
            self._check_columns(file)
            found, stated = file.metadata.num_rows, self.header.n_rows
        if found != stated:
            raise ValueError(f"it has {found:,} rows, but its header states {stated:,}")

    def _check_columns(self, file: pq.ParquetFile) -> None:
        found, expected = file.schema_arrow, _schema(self.header)
        if not found.equals(expected):
            raise ValueError(f"its columns are {_columns_text(found)}, not {_columns_text(expected)}")

    def mapped(self, column: int) -> None:
        """Return None: the vectors are compressed."""

    def schema(self) -> dict[str, str]:
        with _opened(self.path) as file:
            return {field.name: str(field.type) for field in file.schema_arrow}


def open_file(path: Path) -> Parquet:
    """Read the header of a Parquet output; raises ValueError if it is not one."""
    with _opened(path) as file:
        metadata, of_schema = file.metadata.metadata or {}, file.schema_arrow.metadata or {}
    provenance, checksums = of_schema.get(PROVENANCE_KEY.encode()), metadata.get(CHECKSUMS_KEY.encode())
    if provenance is None:
        raise ValueError("a Parquet file without protrna provenance")
    if metadata.get(PROVENANCE_KEY.encode()) != provenance:  # Arrow keeps it in two places
        raise ValueError("its provenance is damaged")
    return Parquet(path, Header.from_json(provenance.decode(), checksums.decode() if checksums else None))


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a file for reading. Arrow takes a name that is not UTF-8 only as bytes, and only here."""
    with pa.OSFile(os.fsencode(path)) as stored, pq.ParquetFile(stored) as file:
        yield file


def _columns_text(schema: Any) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _rows(table: Any, header: Header) -> Iterator[Row]:
    columns = (table[name].to_pylist() for name in header.row_columns)
    return (Row(*values) for values in zip(*columns, strict=True))


def _schema(header: Header) -> Any:
    vector = pa.list_(pa.field("element", _scalar(header), nullable=False), header.width)
    row = pa.list_(pa.field("element", vector, nullable=False)) if header.per_token else vector
    fields = [
        pa.field(name, pa.int64() if name in COUNT_COLUMNS else pa.string(), False)
        for name in header.row_columns
    ]
    fields += [pa.field(name, row, False) for name in header.columns]
    return pa.schema(fields, metadata={PROVENANCE_KEY: header.json})


def _scalar(header: Header) -> Any:
    return {"float32": pa.float32(), "float16": pa.float16()}[header.dtype]


def _split_columns(header: Header) -> list[str]:
    """Parquet paths of the columns with byte stream split.

    There are none for float16: DuckDB 2.0 cannot read float16 in that encoding.
    """
    if header.dtype == "float16":
        return []
    nesting = ".list.element.list.element" if header.per_token else ".list.element"
    return [name + nesting for name in header.columns]


def _table(block: Block, header: Header, schema: Any) -> Any:
    columns = [pa.array([getattr(row, name) for row in block.rows]) for name in header.row_columns]
    for values in block.values:
        column = schema.field(len(columns)).type
        flat = pa.array(values.reshape(-1), _scalar(header))
        if header.per_token:
            vectors = pa.FixedSizeListArray.from_arrays(flat, type=column.value_type)
            columns.append(
                pa.ListArray.from_arrays(pa.array(block.bounds(), pa.int32()), vectors, type=column)
            )
        else:
            columns.append(pa.FixedSizeListArray.from_arrays(flat, type=column))
    return pa.Table.from_arrays(columns, schema=schema)


def _vectors(column: Any, header: Header) -> Values:
    chunks = [chunk.flatten(recursive=True).to_numpy(zero_copy_only=False) for chunk in column.chunks]
    vectors: Values = np.concatenate(chunks).reshape(-1, header.width)
    return vectors
