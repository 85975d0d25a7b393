"""NumPy: `OUT` (N, D), or (ΣL, D) per token, with `OUT.index.tsv` and `OUT.meta.json` beside it.

The index has one line a row: the row's columns, then `start` and `end`, the row's slice of the array. It is
written as CSV is, but with tabs: a field that holds a tab or a quote is quoted. Several layers stand one
after the other in one array, (layers, N, D) or (layers, ΣL, D).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from protrna_cli.output.rows import COUNT_COLUMNS, ROW_COLUMNS, Block, Header, Row, Values

INDEX_COLUMNS = (*ROW_COLUMNS, "start", "end")
BLOCK_BYTES = 64 << 20


def index_path(path: Path) -> Path:
    """Where the index of an array stands."""
    return path.with_name(f"{path.name}.index.tsv")


def meta_path(path: Path) -> Path:
    """Where the provenance of an array stands."""
    return path.with_name(f"{path.name}.meta.json")


class Slots:
    """An array being filled: its rows are announced in order, their vectors come in any order.

    Parameters
    ----------
    path
        The array's file; index and provenance are written beside it.
    header
        Its counts fix the size of the array, so that every vector has its place from the start.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self._header = header
        self._dtype = np.dtype(header.dtype).newbyteorder("<")
        shape: tuple[int, ...] = (header.n_vectors, header.width)
        if len(header.layers) > 1:
            shape = (len(header.layers), *shape)
        self._array = path.open("wb", buffering=0)
        np.lib.format.write_array_header_1_0(
            self._array, {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        )
        self._offset = self._array.tell()
        self._index = index_path(path).open("w", encoding="utf-8", newline="")
        self._rows = csv.writer(self._index, dialect="excel-tab", lineterminator="\n")
        self._rows.writerow(INDEX_COLUMNS)
        self._announced = 0
        meta_path(path).write_text(header.json + "\n", encoding="utf-8")

    def announce(self, rows: Iterable[Row]) -> list[int]:
        """Add rows to the index; returns the place of each row's first vector."""
        starts = []
        for row in rows:
            starts.append(self._announced)
            self._announced += row.n_embedded if self._header.per_token else 1
            columns = [getattr(row, name) for name in ROW_COLUMNS]
            self._rows.writerow([*columns, starts[-1], self._announced])
        return starts

    def fill(self, layer: int, start: int, vectors: Values) -> None:
        """Write vectors (n, D) of the layer-th layer from place `start` on."""
        place = layer * self._header.n_vectors + start
        data = np.ascontiguousarray(vectors, self._dtype).data.cast("B")
        offset = self._offset + place * self._header.width * self._dtype.itemsize
        while data:  # a signal or a nearly full disk may cut one write short
            written = os.pwrite(self._array.fileno(), data, offset)
            data, offset = data[written:], offset + written

    def close(self) -> None:
        """Flush and close; the files are whole once every row was announced and filled."""
        self._index.close()
        self._array.close()

    def __enter__(self) -> Slots:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write(path: Path, header: Header, blocks: Iterable[Block]) -> None:
    """Write an array with its index and provenance."""
    with Slots(path, header) as slots:
        for block in blocks:
            starts = slots.announce(block.rows)
            for layer, values in enumerate(block.values):
                slots.fill(layer, starts[0], values)


def read_header(path: Path) -> Header:
    """Read the provenance beside an array.

    Raises
    ------
    ValueError
        There is none, or it is not ours.
    """
    if not meta_path(path).exists():
        raise ValueError(f"an array without {meta_path(path).name} beside it")
    return Header.from_json(meta_path(path).read_text(encoding="utf-8"))


def read_blocks(path: Path, header: Header) -> Iterator[Block]:
    """Read the rows, some 64 MiB of vectors at a time."""
    array = np.load(path, mmap_mode="r").reshape(len(header.layers), header.n_vectors, header.width)
    bytes_a_vector = array.strides[1] * len(header.layers)
    pending: list[Row] = []
    first = last = 0
    for row, end in _read_index(path):
        if pending and (end - first) * bytes_a_vector > BLOCK_BYTES:
            yield Block(pending, list(array[:, first:last]))
            pending, first = [], last
        pending.append(row)
        last = end
    if pending:
        yield Block(pending, list(array[:, first:last]))


def _read_index(path: Path) -> Iterator[tuple[Row, int]]:
    """Rows of the index, each with the place where its vectors end."""
    csv.field_size_limit(1 << 30)  # a FASTA description has no bound
    with index_path(path).open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file, dialect="excel-tab"):
            counts: Any = {name: int(line[name]) for name in COUNT_COLUMNS}
            yield Row(line["id"], line["description"], **counts), int(line["end"])
