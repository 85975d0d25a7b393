"""NumPy: `OUT` (N, D), or (ΣL, D) per token, with `OUT.index.tsv` and `OUT.meta.json` beside it.

The index has one line per row: the row's columns, then `start` and `end`, the row's slice of the array. It is
CSV with tabs: a field that contains a tab or a quote is quoted. Several layers are one array, (layers, N, D)
or (layers, ΣL, D).
"""

from __future__ import annotations

import csv
import errno
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, final

import numpy as np

from protrna_cli.output.files import index_path, meta_path
from protrna_cli.output.rows import Block, Header, ReadableFile, Values, chosen, spans
from protrna_cli.plan.pieces import Row, row_of
from protrna_cli.text import printable


class Vectors:
    """The array of an output, whose vectors are written and read in any order.

    header: its counts determine the size of the array, so the position of every vector is known from the
        start.
    resume: continue the existing file.
    """

    def __init__(self, path: Path, header: Header, resume: bool = False) -> None:
        self._header = header
        self._dtype = np.dtype(header.dtype).newbyteorder("<")
        start = array_header(self._dtype, _shape(header))
        self._offset = len(start)
        self._file = path.open("r+b" if resume else "w+b", buffering=0)
        if not resume:
            self._file.write(start)

    def fill(self, layer: int, start: int, vectors: Values) -> None:
        """Write vectors (n, D) from position `start` on; `layer` is an index into the header's layers."""
        data = np.ascontiguousarray(vectors, self._dtype).reshape(-1).view(np.uint8).data
        write_all(self._file.fileno(), data, self._offset_of(layer, start))

    def read(self, layer: int, start: int, count: int) -> Values:
        """Read vectors (count, D) that were filled, from position `start` on."""
        vectors = np.empty((count, self._header.width), self._dtype)
        data, done = vectors.reshape(-1).view(np.uint8).data, 0
        while done < len(data):
            count = os.preadv(self._file.fileno(), [data[done:]], self._offset_of(layer, start) + done)
            if not count:
                raise OSError(errno.EIO, "the file of vectors is too short")
            done += count
        return vectors

    def _offset_of(self, layer: int, start: int) -> int:
        position = layer * self._header.n_vectors + start
        return self._offset + position * self._header.width * self._dtype.itemsize

    def sync(self) -> None:
        """Make all that is written durable."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, which is complete once every vector is filled."""
        self._file.close()


class Index:
    """The index of an array, written from its first row on."""

    def __init__(self, path: Path, header: Header) -> None:
        self._header = header
        self._file = index_path(path).open("w", encoding="utf-8", newline="")
        self._lines = csv.writer(self._file, dialect="excel-tab", lineterminator="\n")
        self._lines.writerow(_index_columns(header))
        self._end = 0

    def add(self, rows: Iterable[Row]) -> None:
        """Add the next rows."""
        for row in rows:
            start, self._end = self._end, self._end + self._header.n_vectors_of(row)
            columns = [getattr(row, name) for name in self._header.row_columns]
            self._lines.writerow([*columns, start, self._end])

    def close(self) -> None:
        """Write the rest, and close the file."""
        self._file.close()


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all bytes at an offset of a file; one system call may write fewer, as on a nearly full disk."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


@final
class Npy(ReadableFile):
    """An array with its index and its provenance."""

    def write(self, blocks: Iterable[Block], seal: Callable[[], Header]) -> None:
        path, header, start = self.path, self.header, 0
        with closing(Vectors(path, header)) as vectors, closing(Index(path, header)) as index:
            for block in blocks:
                index.add(block.rows)
                for layer, values in enumerate(block.values):
                    vectors.fill(layer, start, values)
                start += len(block.values[0])
        write_meta(path, seal())

    def blocks(self, columns: Sequence[int] | None = None) -> Iterator[Block]:
        for rows, start, end in spans(self.rows(), self.header):
            # Mapped anew for each block: those read before no longer count as memory of this process.
            yield Block(rows, chosen(self._layers()[:, start:end], columns))

    def rows(self) -> Iterator[Row]:
        csv.field_size_limit(1 << 30)  # a FASTA description may have any length
        with index_path(self.path).open(encoding="utf-8", newline="") as file:
            start = 0
            for line in csv.DictReader(file, dialect="excel-tab"):
                row = row_of(line, self.header.row_columns)
                end = start + self.header.n_vectors_of(row)
                if (line["start"], line["end"]) != (str(start), str(end)):
                    raise ValueError(
                        f"{index_path(self.path).name}: start and end of the id {row.id!r} are "
                        f"{line['start']} and {line['end']}, not {start} and {end}"
                    )
                yield row
                start = end

    def check(self, thorough: bool = False) -> None:
        self._layers()
        index, n_rows = index_path(self.path), self.header.n_rows
        with index.open("rb") as file:
            lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
        if lines != n_rows + 1:
            raise ValueError(f"{index.name} has {lines - 1:,} rows, but the header states {n_rows:,}")

    def mapped(self, column: int) -> Values:
        values: Values = self._layers()[column]
        return values

    def schema(self) -> dict[str, str]:
        """List the files, with the array's dtype and shape and the index's columns."""
        array = np.load(self.path, mmap_mode="r")
        files = {
            self.path: f"{array.dtype} {array.shape}",
            index_path(self.path): ", ".join(_index_columns(self.header)),
            meta_path(self.path): "provenance",
        }
        return {printable(file.name): text for file, text in files.items()}

    def _layers(self) -> Any:
        """Map the array (layers, n_vectors, D); its shape and type must be those of the header."""
        header = self.header
        array, shape = np.load(self.path, mmap_mode="r"), _shape(header)
        if (array.dtype, array.shape) != (np.dtype(header.dtype), shape):
            raise ValueError(f"its array is {array.dtype} {array.shape}, not {header.dtype} {shape}")
        return array.reshape(len(header.layers), header.n_vectors, header.width)


def open_file(path: Path) -> Npy:
    """Read the provenance beside an array."""
    if not meta_path(path).exists():
        raise ValueError(f"an array without {meta_path(path).name} beside it")
    return Npy(path, Header.from_json(meta_path(path).read_text(encoding="utf-8")))


def write_meta(path: Path, header: Header) -> None:
    """Write the provenance beside an output, as `OUT.meta.json`."""
    meta_path(path).write_text(header.json + "\n", encoding="utf-8")


def array_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Make what stands before the numbers of an array, which are little-endian and in C order."""
    file = io.BytesIO()
    described = {"descr": dtype.newbyteorder("<").str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)
    return file.getvalue()


def _shape(header: Header) -> tuple[int, ...]:
    """Shape of the array: one layer has no axis of its own."""
    shape = (header.n_vectors, header.width)
    return shape if len(header.layers) == 1 else (len(header.layers), *shape)


def _index_columns(header: Header) -> tuple[str, ...]:
    return (*header.row_columns, "start", "end")
