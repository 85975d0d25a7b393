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
from typing import Any

import numpy as np

from protrna_cli.errors import ReaderGone, WriteFailed
from protrna_cli.fasta.records import Skipped
from protrna_cli.output.formats.npy import write_all
from protrna_cli.output.formats.parquet import ParquetStream
from protrna_cli.output.rows import Block, Checksum, Header, Values, spans
from protrna_cli.plan.pieces import Row
from protrna_cli.run.outputs import Position
from protrna_cli.run.report import Stop
from protrna_cli.text import reason


class Stream:
    """Sends rows through a pipe: an output of `Loop`.

    The current chunk is kept in an unnamed temporary file until it is filled; the file disappears when the
    process ends for any reason.

    descriptor: file descriptor open for writing, such as a pipe.
    stop: checked while the pipe is full: a reader that does not read must not keep the run alive.
    """

    def __init__(self, descriptor: int, header: Header, stop: Stop) -> None:
        self.per_token, self.pooling = header.per_token, header.provenance["pooling"]
        self.position = Position()
        self._header = header
        self._start = self._end = 0
        self._stop = stop
        self._pipe = _Pipe(descriptor)
        with self._sending():
            self._parquet = ParquetStream(self._pipe, header)
            self._checksum = Checksum(header)
            self._chunk = tempfile.TemporaryFile(prefix="protrna-", buffering=0)  # noqa: SIM115

    def add(self, rows: list[Row], skipped: Sequence[Skipped]) -> None:
        """Take the rows of the next chunk; none may be skipped, as a pipe has no place for that list."""
        assert not skipped
        self._rows = rows
        self._start = self._end
        self._end += sum(map(self._header.n_vectors_of, rows))
        self._shape = (len(self._header.layers), self._end - self._start, self._header.width)

    def fill(self, layer: int, start: int, vectors: Values) -> None:
        _, n_vectors, width = self._shape
        data = np.ascontiguousarray(vectors, self._header.dtype)
        with self._sending():
            offset = (layer * n_vectors + start - self._start) * width * data.itemsize
            write_all(self._chunk.fileno(), data.data.cast("B"), offset)

    def read(self, layer: int, start: int, count: int) -> Values:
        """Refuse: what has been sent cannot be read again."""
        raise NotImplementedError

    def commit(self, position: Position) -> None:
        """Send the chunk once all its rows are filled; nothing that is sent is durable."""
        if position.chunks == self.position.chunks:
            return
        self.position = position
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

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
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
