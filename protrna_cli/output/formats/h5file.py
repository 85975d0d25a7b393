"""An HDF5 file that is being made: it carries the provenance, and outlives a full disk."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from protrna_cli.output.rows import PROVENANCE_KEY, Header


class _PatientFile(io.FileIO):
    """A file that remembers its first failure and takes every write after that for done.

    HDF5 cannot close a file whose writes fail: its handles live on, complain on stderr until the process
    ends, and keep the disk busy. So it is told that all is well, and the failure is raised after the close.
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
        """Raise the first failure, if there was one."""
        if self.failure:
            raise self.failure


@contextmanager
def created(path: Path, header: Header) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Make a file; gives it, and what raises the error when writing has failed: call it now and then."""
    with _PatientFile(path, "w+") as raw:
        # Files of HDF5 1.8 (2008) and later: attributes and groups have no bound in them.
        with h5py.File(raw, "w", libver=("v108", "v110"), track_order=True) as file:
            file.attrs[PROVENANCE_KEY] = header.json
            yield file, raw.check
        raw.check()
