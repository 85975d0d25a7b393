"""An output sent through a pipe as Parquet, chunk by chunk.

A pipe cannot be rewritten, so nothing is durable and nothing can be resumed. The footer comes last: the
output of an interrupted run has none, so no reader accepts it as a Parquet file.
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
from protrna_cli.fasta.records import Skipped
from protrna_cli.output.checksum import Checksum
from protrna_cli.output.formats.npy import write_all
from protrna_cli.output.formats.parquet import ParquetStream
from protrna_cli.output.rows import Block, Header, Values, spans
from protrna_cli.plan.rows import Row
from protrna_cli.run.journal import Position
from protrna_cli.run.report import Amount
from protrna_cli.run.stop import Stop
from protrna_cli.text import reason


class Stream:
    """Sends rows through a pipe: a sink of `pipeline.embed`.

    The current chunk is kept in an unnamed temporary file until it is filled; the file disappears when the
    process ends for any reason.

    Parameters
    ----------
    descriptor
        File descriptor open for writing, such as a pipe.
    header
        The header of the output.
    stop
        Checked while the pipe is full: a reader that does not read must not keep the run alive.
    """

    def __init__(self, descriptor: int, header: Header, stop: Stop) -> None:
        self.position = Position()
        self._header = header
        self._stop = stop
        self._pipe = _Pipe(descriptor)
        with self._sending():
            self._parquet = ParquetStream(self._pipe, header)
            self._checksum = Checksum(header)
            self._chunk = tempfile.TemporaryFile(prefix="protrna-", buffering=0)  # noqa: SIM115

    def open_chunk(self, rows: list[Row], skipped: Sequence[Skipped]) -> list[int]:
        """Take the rows of the next chunk; returns the index of each row's first vector.

        `skipped` must be empty: a pipe has no place for that list.
        """
        assert not skipped
        self._rows = rows
        ends = list(accumulate(row.n_embedded if self._header.per_token else 1 for row in rows))
        self._shape = (len(self._header.layers), ends[-1], self._header.width)
        return [0, *ends[:-1]]

    def fill(self, layer: int, start: int, vectors: Values) -> None:
        """Write vectors (n, D) of the `layer`-th layer of the output, from vector `start` of the chunk on."""
        _, n_vectors, width = self._shape
        data = np.ascontiguousarray(vectors, self._header.dtype)
        with self._sending():
            offset = (layer * n_vectors + start) * width * data.itemsize
            write_all(self._chunk.fileno(), data.data.cast("B"), offset)

    def read(self, layer: int, start: int, count: int) -> Values:
        """Refuse: what has been sent cannot be read again."""
        raise NotImplementedError

    def halve(self, fits: int) -> None:
        """Do nothing: the provenance has been sent."""

    def commit(self, batches: int, done: Amount) -> None:
        """Do nothing: what has been sent cannot be taken back."""

    def close_chunk(self, done: Amount) -> None:
        """Send the open chunk, once all its rows are filled."""
        with self._sending():
            for rows, start, end in spans(self._rows, self._header):
                # Mapped anew for each block: those sent no longer count as memory of this process.
                array = np.memmap(self._chunk, self._header.dtype, "r", shape=self._shape)
                block = Block(rows, list(array[:, start:end]))
                self._checksum.add(block)
                self._parquet.add(block)

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """Let a signal interrupt a write, and turn a failed write into our errors."""
        try:
            with self._stop.abandoning():
                yield
        except BaseException as error:
            self._pipe.shut = True
            if isinstance(error, BrokenPipeError):
                raise ReaderGone("the reader of standard output has closed it") from None
            if isinstance(error, OSError):
                raise WriteFailed(
                    f"standard output: writing failed ({reason(error)}); free space there and in "
                    f"{tempfile.gettempdir()}, or set TMPDIR to another folder"
                ) from error
            raise

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._chunk.close()
        self._pipe.shut = self._pipe.shut or kind is not None
        with self._sending():
            self._parquet.close(None if kind else self._checksum.seal())


class _Pipe(io.RawIOBase):
    """A pipe for Arrow to write to. Once it is shut, writes are discarded.

    A Parquet writer that is dropped early still writes its footer, which would make an interrupted file look
    complete.
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
            self.shut = True  # otherwise Arrow would still write its buffers
            raise
        return memoryview(data).nbytes
