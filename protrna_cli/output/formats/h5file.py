"""Create HDF5 files with provenance and without timestamps, and close them cleanly when the disk is full.

Equal runs make equal bytes: datasets of h5py have no timestamps, files and groups are made here without.
"""

from __future__ import annotations

import io
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import IO, Any

import h5py

from protrna_cli.disk import file_hash
from protrna_cli.output.rows import PROVENANCE_KEY, Header

CHECK_BYTES = 1 << 30
"""Files up to this size are hashed whenever they are opened: it takes less than a second."""

_TRAILER = re.compile(rb"\nprotrna SHA-256 ([0-9a-f]{64})\n")
_TRAILER_BYTES = len("\nprotrna SHA-256 \n") + 64


class _DeferredErrorFile(io.FileIO):
    """A file that keeps its first write error for later and reports every write as successful.

    HDF5 cannot close a file whose writes fail: its handles stay open, print errors on stderr until the
    process ends, and keep using the disk. So HDF5 sees no error, and `check` raises it after the close.
    Ctrl-C is kept as well: Python may raise it as `write` begins, which is a failed write to HDF5.
    """

    failure: BaseException | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            while view and self.failure is None:
                view = view[super().write(view) or 0 :]
        except OSError as error:
            self.failure = error
        return memoryview(data).nbytes

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0

    def check(self) -> None:
        """Raise the first write error or interrupt, if there was one."""
        if self.failure:
            raise self.failure

    @contextmanager
    def interrupts_kept(self) -> Iterator[None]:
        """Keep what the handler of SIGINT raises until `check`; handlers are the main thread's alone."""
        before = signal.getsignal(signal.SIGINT)
        if not callable(before) or threading.current_thread() is not threading.main_thread():
            yield
            return

        def keep(number: int, frame: FrameType | None) -> None:
            try:
                before(number, frame)
            except BaseException as error:
                self.failure = self.failure or error

        signal.signal(signal.SIGINT, keep)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


@contextmanager
def created(path: Path, seal: Callable[[], Header]) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Create a file, which gets its provenance when the context ends without an error.

    seal: returns the header with its checksums.

    Yields the file, and a function that raises an earlier write error or Ctrl-C, to be called regularly.
    """
    with _DeferredErrorFile(path, "w+") as raw:
        with raw.interrupts_kept(), h5py.File(_new_file(raw)) as file:
            yield file, raw.check
            file.attrs[PROVENANCE_KEY] = seal().json
        raw.check()
        sha256 = file_hash(path, "sha256", raw.seek(0, io.SEEK_END))
        raw.write(f"\nprotrna SHA-256 {sha256}\n".encode())  # readers of HDF5 ignore what follows it
        raw.check()


def opened(path: Path, thorough: bool = False) -> h5py.File:
    """Open a file for reading, if its bytes are those that were written, as `check` finds.

    It is opened without a lock, which some network file systems would refuse.
    """
    check(path, thorough)
    return h5py.File(path, "r", locking=False)


def check(path: Path, thorough: bool = False) -> None:
    """Check the bytes of a file as `_check_bytes` does; those of one that is large only if thorough."""
    status = path.stat()
    if thorough or status.st_size <= CHECK_BYTES:
        _check_bytes(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def _check_bytes(path: Path, size: int, changed: int) -> None:
    """Compare the SHA-256 of a file with the one behind it, before HDF5 parses it.

    libhdf5 can crash or loop for ever on damaged metadata, so that such a file must not be opened at all.

    size, changed: size in bytes, and time of change in nanoseconds: the result is remembered as long as they
        stay.

    Raises ValueError: they differ, or a file that had a SHA-256 has lost it. Files of earlier versions have
        none.
    """
    with path.open("rb") as file:
        file.seek(max(0, size - _TRAILER_BYTES))
        match = _TRAILER.fullmatch(file.read())
        if not match and _has_checksums(file):
            raise ValueError("its SHA-256 is missing: cut short, or written anew by another program")
    if match and file_hash(path, "sha256", size - _TRAILER_BYTES) != match[1].decode():
        raise ValueError("its bytes changed since it was written")


def _has_checksums(file: IO[bytes]) -> bool:
    """Whether the provenance of a file, found in its bytes without HDF5, has checksums."""
    file.seek(0)
    behind = b""
    while block := file.read(1 << 20):
        if b'"checksums": {' in behind + block:
            return True
        behind = block[-16:]
    return False


def new_group(parent: h5py.Group, name: str, track_order: bool = False) -> h5py.Group:
    """Create a group without timestamps; h5py has no argument for that."""
    creation = _creation(h5py.h5p.GROUP_CREATE, track_order)
    return h5py.Group(h5py.h5g.create(parent.id, name.encode(), gcpl=creation))


def _new_file(raw: io.FileIO) -> Any:
    """Create a file as h5py does for a Python file, but without timestamps in its root group."""
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, raw)
    # The file format of HDF5 1.8 (2008) and later: it does not limit the size of attributes and groups.
    access.set_libver_bounds(h5py.h5f.LIBVER_V18, h5py.h5f.LIBVER_V110)
    creation = _creation(h5py.h5p.FILE_CREATE, track_order=True)
    return h5py.h5f.create(repr(raw).encode(), h5py.h5f.ACC_TRUNC, fcpl=creation, fapl=access)


def _creation(kind: Any, track_order: bool) -> Any:
    creation = h5py.h5p.create(kind)
    creation.set_obj_track_times(False)
    if track_order:
        order = h5py.h5p.CRT_ORDER_TRACKED | h5py.h5p.CRT_ORDER_INDEXED
        creation.set_link_creation_order(order)
        creation.set_attr_creation_order(order)
    return creation
