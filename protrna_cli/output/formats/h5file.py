"""Create HDF5 files with provenance and without timestamps, and close them cleanly when the disk is full.

Equal runs make equal bytes: datasets of h5py have no timestamps, files and groups are made here without.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from protrna_cli.output.rows import PROVENANCE_KEY, Header


class _DeferredErrorFile(io.FileIO):
    """A file that keeps its first write error for later and reports every write as successful.

    HDF5 cannot close a file whose writes fail: its handles stay open, print errors on stderr until the
    process ends, and keep using the disk. So HDF5 sees no error, and `check` raises it after the close.
    """

    failure: OSError | None = None

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
        """Raise the first write error, if there was one."""
        if self.failure:
            raise self.failure


@contextmanager
def created(path: Path, header: Header) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Create a file; yields it and a function that raises an earlier write error, to be called regularly."""
    with _DeferredErrorFile(path, "w+") as raw:
        with h5py.File(_new_file(raw)) as file:
            file.attrs[PROVENANCE_KEY] = header.json
            yield file, raw.check
        raw.check()


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
