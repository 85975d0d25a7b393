"""Read lines of text from files, pipes and standard input. Compression is recognised by content.

Every input is read twice, by the census and by the embedding pass. A pipe can be read only once, so it is
first copied to an unnamed temporary file (its spool), which disappears with the process, however that ends.
Offsets into an input count bytes of the decompressed text after any byte-order mark.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import re
import shlex
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from protrna_cli.disk import reading
from protrna_cli.errors import InputError, InputUnreadable, UsageError, WriteFailed
from protrna_cli.plan.rules import STDIN
from protrna_cli.text import printable

BYTE_ORDER_MARK = "\ufeff"
BINARY = "a binary file or UTF-16, not text; give FASTA as plain text"

_OTHER_FORMATS = {
    **dict.fromkeys(
        ("@HD\t", "@SQ\t", "@RG\t", "@PG\t", "@CO\t"), "SAM; convert it to FASTA first (samtools fasta)"
    ),
    "@": "FASTQ; convert it to FASTA first (seqtk seq -a)",
    "# STOCKHOLM": "Stockholm; convert it to FASTA first (esl-reformat fasta)",
    "CLUSTAL": "Clustal; convert it to FASTA first",
    "LOCUS": "GenBank; convert it to FASTA first",
    "ID   ": "EMBL; convert it to FASTA first",
}


@dataclass(frozen=True)
class Source:
    """An input that can be read as often as needed."""

    name: str  # as the user gave it, and printable; `<stdin>` for standard input
    path: Path | None = None  # the file; None if `spool` is used
    spool: IO[bytes] | None = field(default=None, compare=False)  # temporary copy of a pipe

    def stamp(self) -> tuple[int, int]:
        """Size in bytes and modification time in nanoseconds, to notice that the input has changed."""
        with self._reading():
            status = os.fstat(self.spool.fileno()) if self.spool else Path(self.path or "").stat()
        return status.st_size, status.st_mtime_ns

    def lines(self, digest: Any = None, start: int = 0) -> Iterator[str]:
        """Yield the lines of the text with their original line ends.

        digest: a hash object, updated with every byte of the input as stored on disk.
        start: offset of the first line to yield. A plain file is read from there; a compressed one must be
            decompressed up to there.
        """
        with self._reading():
            try:
                with (
                    io.BufferedReader(_StoredBytes(self, digest), 1 << 20) as stored,
                    io.TextIOWrapper(_text_from(stored, start), "utf-8", newline="") as text,
                ):
                    yield from text
                    while stored.read(1 << 20):  # bytes after the compressed text are hashed too
                        pass
            except UnicodeDecodeError:
                raise InputError(self._decode_error()) from None

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn exceptions of reading and decompressing into our errors."""
        with reading(self.name):
            try:
                yield
            except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                # An OSError without errno comes from a decompressor.
                raise InputError(f"{self.name}: compressed, but {self._decompression_flaw(error)}") from None

    def _decompression_flaw(self, error: Exception) -> str:
        """Say why an input cannot be decompressed, and what to do."""
        file = shlex.quote(self.name) if self.path else "FILE"
        if "too much memory" in str(error):
            return f"with a window of more than 128 MiB; use: zstd -dc --long=31 {file} | protrna embed -"
        if isinstance(error, gzip.BadGzipFile) and "Not a gzipped file" in str(error):
            return f"with other bytes behind its end; use: gzip -dc {file} | protrna embed -"
        return f"damaged or truncated ({error}); download or compress it again"

    def _decode_error(self) -> str:
        """Describe where the input stops being UTF-8 text, by reading it again."""
        with io.BufferedReader(_StoredBytes(self, None), 1 << 20) as stored:
            if b"\0" in stored.peek(4096)[:4096]:
                return f"{self.name}: {BINARY}"
            for number, line in enumerate(_decompressed(stored), start=1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError:
                    convert = "convert it, for example: iconv -f latin1 -t utf-8"
                    return f"{self.name}: line {number}: not UTF-8; {convert}"
        return f"{self.name}: {BINARY}"


@contextmanager
def open_sources(names: Sequence[str | os.PathLike[str]]) -> Iterator[list[Source]]:
    """Open paths, and `-` for standard input, as sources. Spools are deleted when the context ends."""
    texts = [os.fspath(name) for name in names]
    if texts.count(STDIN) > 1:
        raise UsageError("standard input (-) can be read only once; name it once")
    with ExitStack() as stack:
        yield [_source(text, stack) for text in texts]


def _source(text: str, stack: ExitStack) -> Source:
    if text == STDIN:
        if sys.stdin is None:  # closed before this process began
            raise InputUnreadable(
                "<stdin>: standard input is closed; give it a file or a pipe, or name a file"
            )
        return Source("<stdin>", spool=_spooled(sys.stdin.buffer, "<stdin>", stack))
    path = Path(text)
    with reading(text):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputUnreadable(f"{text}: a folder; name its files, for example {text.rstrip('/')}/*.fa")
        with path.open("rb") as file:
            if not stat.S_ISREG(mode):
                return Source(printable(text), spool=_spooled(file, text, stack))
    return Source(printable(text), path)


def _spooled(stream: Any, name: str, stack: ExitStack) -> IO[bytes]:
    try:
        spool = stack.enter_context(_temporary_file())
        for block in _blocks(stream, name):
            spool.write(block)
        spool.flush()
    except OSError as error:
        raise WriteFailed(
            f"{name}: cannot be copied to {tempfile.gettempdir()} ({error.strerror}); "
            "free space there or set TMPDIR to a folder that has some"
        ) from None
    return spool


@contextmanager
def _temporary_file() -> Iterator[IO[bytes]]:
    file = tempfile.TemporaryFile(prefix="protrna-")  # noqa: SIM115
    try:
        yield file
    finally:
        # What a full disk refused is still in the buffer: closing tries to write it, and fails, once more.
        with suppress(OSError):
            file.close()


def _blocks(stream: IO[bytes], name: str) -> Iterator[bytes]:
    """Read a stream to its end, block by block."""
    # One system call a block, without Python's buffer: on a terminal, another would wait for a second Ctrl-D.
    raw = getattr(stream, "raw", stream)
    with reading(name, "check where it comes from"):
        try:
            while block := raw.read(1 << 20):
                yield block
        except IsADirectoryError:
            raise InputUnreadable(f"{name}: a folder; name its files") from None
    if block != b"":  # None: a stream that does not wait for its next bytes, which is not its end
        raise InputUnreadable(f"{name}: its next bytes are not ready; save it as a file, and name that")


class _StoredBytes(io.RawIOBase):
    """The bytes of a source as stored on disk. Every byte read is also hashed."""

    def __init__(self, source: Source, digest: Any) -> None:
        self._spool = source.spool
        self._descriptor = source.spool.fileno() if source.spool else os.open(source.path or "", os.O_RDONLY)
        self._digest = digest
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # pread does not move the spool's file position, so two passes do not disturb each other.
        data = os.pread(self._descriptor, len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        if self._digest is not None:
            self._digest.update(data)
        return len(data)

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at}[whence]
        return self._at

    def close(self) -> None:
        if not self.closed and not self._spool:
            os.close(self._descriptor)
        super().close()


def _text_from(stored: Any, start: int) -> Any:
    """Decompress, skip a byte-order mark, and go to an offset of the text."""
    text = _decompressed(stored)
    if text.peek(3)[:3] == codecs.BOM_UTF8:
        text.read(3)
    if text is stored:
        stored.seek(start, os.SEEK_CUR)
    else:
        while start and (passed := text.read(min(start, 1 << 20))):
            start -= len(passed)
    return text


def _decompressed(stored: Any) -> Any:
    """Decompress gzip, bzip2, xz or zstd, recognised by the first bytes."""
    magic = stored.peek(6)[:6]
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=stored)
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(stored)
    if magic.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(stored)
    # pzstd, zstd in parallel, begins with a frame of its own (RFC 8878, skippable frames).
    if magic.startswith(b"\x28\xb5\x2f\xfd") or re.match(rb"[\x50-\x5f]\x2a\x4d\x18", magic):
        import pyarrow as pa  # for zstd, which the standard library has only from Python 3.14 on

        return io.BufferedReader(
            _ArrowReader(pa.CompressedInputStream(pa.PythonFile(stored, mode="r"), "zstd"))
        )
    return stored


class _ArrowReader(io.RawIOBase):
    """A decompressing Arrow stream as a Python raw stream."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def fasta_lines(source: Source, digest: Any = None, start: int = 0) -> Iterator[tuple[int, str]]:
    """Yield the lines of a source from an offset on, and how many bytes each has.

    A byte-order mark at the beginning of a line, as where files were joined, is left out.
    """
    begun = False
    for number, line in enumerate(source.lines(digest, start), start=1):
        n_bytes = len(line) if line.isascii() else len(line.encode())
        line = line.removeprefix(BYTE_ORDER_MARK) or "\n"
        if not begun and line.strip():
            if not line.startswith(">"):
                raise InputError(f"{source.name}: line {number}: {_not_fasta(line)}")
            begun = True
        yield n_bytes, line


def _not_fasta(line: str) -> str:
    if "\0" in line:
        return BINARY
    for start, name in _OTHER_FORMATS.items():
        if line.startswith(start):
            return f"not FASTA; it looks like {name}"
    return "not FASTA; a record starts with a line '>ID description'"
