"""One process an output: a lock that dies with its process."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from protrna_cli.errors import OutputBusy, OutputUnwritable

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL})
"""What a file system that knows no locks answers, as some network ones do."""


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Hold the lock of an output: the file `OUT.lock`, which says who holds it.

    The lock is the kernel's, so that it ends with the process however that ends. A file system that knows no
    locks goes without.

    Raises
    ------
    OutputBusy
        Another process holds it.
    OutputUnwritable
        The file cannot be made.
    """
    path = output.with_name(f"{output.name}.lock")
    try:
        descriptor = _acquire(path)
    except BlockingIOError:
        holder = path.read_text(errors="replace").strip() if path.exists() else "another process"
        raise OutputBusy(
            f"{output}: {holder or 'another process'} is writing it; wait for that or choose another -o"
        ) from None
    except OSError as error:
        raise OutputUnwritable(
            f"{output}: cannot be created ({error.strerror}); choose another -o"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            # Whoever held it before may have removed the file between our opening and our locking it.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
