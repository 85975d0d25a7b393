"""An output that flows down a pipe as Parquet, window by window, and is kept nowhere.

A pipe cannot be written again, so that nothing here is durable and nothing can be resumed. The footer comes
last: what a broken-off run has sent is no Parquet file, and no reader takes it for one.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from types import TracebackType
from typing import Any

import numpy as np

from protrna_cli.errors import ReaderGone, WriteFailed
from protrna_cli.journal import Position
from protrna_cli.output.npy import write_all
from protrna_cli.output.parquet import Writer
from protrna_cli.output.rows import Block, Header, Row, Values, spans
from protrna_cli.records import Skipped
from protrna_cli.stopping import Stop


class Stream:
    """Sends rows down a pipe; the sink of `pipeline.embed` in the place of a spool.

    One window waits until all of it is filled, in a nameless temporary file, which vanishes with the process,
    however that ends.

    Parameters
    ----------
    descriptor
        The pipe, or whatever else is open for writing.
    header
        What will be sent.
    stop
        Asked while the pipe is full: a reader that does not read must not keep the run from ending.
    """

    def __init__(self, descriptor: int, header: Header, stop: Stop) -> None:
        self.position = Position()
        self._header = header
        self._stop = stop
        self._pipe = _Pipe(descriptor)
        with self._sending():
            self._parquet = Writer(self._pipe, header)
            self._window = tempfile.TemporaryFile(prefix="protrna-", buffering=0)  # noqa: SIM115

    def open_window(self, rows: list[Row], skipped: Sequence[Skipped]) -> list[int]:
        """Take the rows of the next window; returns the place of each row's first vector.

        Skipped records have no place in a pipe; none are let through.
        """
        assert not skipped
        self._rows = rows
        ends = list(accumulate(row.n_embedded if self._header.per_token else 1 for row in rows))
        self._shape = (len(self._header.layers), ends[-1], self._header.width)
        return [0, *ends[:-1]]

    def fill(self, layer: int, start: int, vectors: Values) -> None:
        """Write vectors (n, D) of the layer-th layer from place `start` on."""
        _, n_vectors, width = self._shape
        data = np.ascontiguousarray(vectors, self._header.dtype)
        with self._sending():
            place = (layer * n_vectors + start) * width * data.itemsize
            write_all(self._window.fileno(), data.data.cast("B"), place)

    def commit(self, batches: int) -> None:
        """Do nothing: what has been sent cannot be taken back."""

    def close_window(self) -> None:
        """Send the open window; all its rows are filled."""
        with self._sending():
            array = np.memmap(self._window, self._header.dtype, "r", shape=self._shape)
            for rows, start, end in spans(self._rows, self._header):
                self._parquet.add(Block(rows, list(array[:, start:end])))

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """Break off a write that a signal interrupts, and turn what goes wrong into our errors."""
        try:
            with self._stop.abandoning():
                yield
        except BaseException as error:
            self._pipe.shut = True
            if isinstance(error, BrokenPipeError):
                raise ReaderGone("whoever read standard output has closed it") from None
            if isinstance(error, OSError):
                raise WriteFailed(
                    f"standard output: writing failed ({error.strerror or error}); make room there and in "
                    f"{tempfile.gettempdir()}, or set TMPDIR to a folder that has some"
                ) from error
            raise

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._window.close()
        self._pipe.shut = self._pipe.shut or kind is not None
        with self._sending():
            self._parquet.close()


class _Pipe(io.RawIOBase):
    """A pipe as Arrow writes it. What is written after it was shut goes nowhere.

    A Parquet writer that is dropped half-way writes its footer all the same, with which the broken-off file
    would look whole.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.shut = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            while view and not self.shut:
                view = view[os.write(self._descriptor, view) :]
        except BaseException:
            self.shut = True  # Arrow would go on with what it has in its hands
            raise
        return memoryview(data).nbytes
