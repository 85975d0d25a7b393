"""Create HDF5 files with provenance, and close them cleanly when the disk is full."""

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
def created(path: Path, seal: Callable[[], Header]) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Create a file, which gets its provenance when the context ends without an error.

    Parameters
    ----------
    seal
        Returns the header with its checksums.

    Yields
    ------
    tuple
        The file, and a function that raises an earlier write error, to be called regularly.
    """
    with _DeferredErrorFile(path, "w+") as raw:
        # The file format of HDF5 1.8 (2008) and later: it does not limit the size of attributes and groups.
        with h5py.File(raw, "w", libver=("v108", "v110"), track_order=True) as file:
            yield file, raw.check
            file.attrs[PROVENANCE_KEY] = seal().json
        raw.check()
