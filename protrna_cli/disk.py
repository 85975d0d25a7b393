"""Read files, write them completely or not at all, and lock an output for one process at a time."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shlex
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from protrna_cli.errors import InputUnreadable, OutputBusy, OutputUnwritable, WriteFailed
from protrna_cli.text import reason, unreadable

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL})
"""Error numbers of a file system that cannot lock files or sync folders, as some on a network."""

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a full disk, a quota and a limit of file size."""

LOCK_CONTENT = re.compile(rb"(process \d+ on \S*\n)?")
"""Content of a lock file of ours; it is empty for a moment after it is made."""

NOT_A_LOCK = "protrna did not make it, but its lock needs that name; move it away and run again"


@contextmanager
def reading(name: Path | str, remedy: str = "check the path") -> Iterator[None]:
    """Turn a failed read in this context into `InputUnreadable`."""
    try:
        yield
    except OSError as error:
        raise InputUnreadable(f"{name}: {unreadable(error)}; {remedy}") from None


@contextmanager
def writing(path: Path | str, remedy: str, otherwise: str = "") -> Iterator[None]:
    """Turn a failed write in this context into `WriteFailed`.

    `remedy` is what the user can do; `otherwise`, if given, is that where it did not fail for want of room.
    """
    try:
        yield
    except OSError as error:
        advice = remedy if error.errno in NO_ROOM else otherwise or remedy
        raise WriteFailed(f"{path}: writing failed ({reason(error)}); {advice}") from error


@contextmanager
def creating(path: Path | str, remedy: str = "choose another -o") -> Iterator[None]:
    """Turn a failure to create a file or folder in this context into `OutputUnwritable`.

    A folder that is missing is not made: where its name is mistyped, an output would go to another disk.
    """
    try:
        yield
    except OSError as error:
        folder = Path(path).parent
        if isinstance(error, FileNotFoundError) and not os.path.lexists(folder):
            raise OutputUnwritable(
                f"{path}: cannot be created, as there is no folder {folder}; make it with "
                f"mkdir -p {shlex.quote(str(folder))}, or {remedy}"
            ) from error
        raise OutputUnwritable(f"{path}: cannot be created ({reason(error)}); {remedy}") from error


def is_null_device(path: Path) -> bool:
    """Whether a path is the null device itself, by any spelling."""
    try:
        status = path.lstat()
        return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.stat(os.devnull).st_rdev  # noqa: PTH116
    except OSError:
        return False


def sync(path: Path) -> None:
    """Make a file, or the file names in a folder, durable.

    Some file systems, such as S3 mounts, cannot sync a folder: their names are durable or not as they please.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_LOCKS or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def share(path: Path) -> None:
    """Let all users of a folder read a file in it, or use a folder in it as that one, as far as possible.

    What one user's process keeps in a folder that others use too must not be closed to these by its umask.
    Files are replaced as a whole, so that nobody else needs to write them.
    """
    with suppress(OSError):
        rights = stat.S_IMODE(path.parent.stat().st_mode)
        path.chmod(rights if path.is_dir() else rights & 0o444 | 0o200)


def write_whole(path: Path, content: bytes | str, shared: bool = False) -> None:
    """Write a file atomically, as `replacing` does."""
    with replacing(path, shared) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path, shared: bool = False) -> Iterator[BinaryIO]:
    """Write a file atomically: if the process ends early, the file has its old or its new content.

    The content goes to a temporary file in the same folder, which is yielded, is made durable, and is then
    renamed. If it is `shared`, all users of its folder may read it, whatever the umask of this one is.
    """
    unfinished = path.with_name(f"{path.name}.{this_process()}.new")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if shared:
            share(unfinished)
        unfinished.replace(path)
        sync(path.parent)
    finally:
        with suppress(OSError):
            unfinished.unlink()
        _remove_left(path)


def this_process() -> str:
    """Name this process among those that use a folder; it is a part of the names of temporary files."""
    return f"{socket.gethostname()}-{os.getpid()}"


def _remove_left(path: Path) -> None:
    """Remove the temporary files of a file that processes of this machine left when they were killed."""
    host = re.escape(socket.gethostname())
    with suppress(OSError):
        for left in path.parent.iterdir():
            found = re.fullmatch(rf"{re.escape(path.name)}\.{host}-(\d+)\.new", left.name)
            if found and not _runs(int(found[1])):
                with suppress(OSError):
                    left.unlink()


def _runs(process: int) -> bool:
    """Whether a process of this machine runs; one of another user counts, as it cannot be asked."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def lock_path(path: Path) -> Path:
    """Lock file of an output."""
    return path.with_name(f"{path.name}.lock")


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; refuses what may wait for ever or never end."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "a pipe, a socket or a device, not a file", str(path))
    return path.open("rb")


def file_hash(path: Path, algorithm: str, size: int = sys.maxsize) -> str:
    """Hash a file, or its first `size` bytes, in hexadecimal."""
    digest = hashlib.new(algorithm)
    with open_regular(path) as file:
        while block := file.read(min(size, 1 << 20)):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()


class Stamp(NamedTuple):
    """What shows that a file has changed."""

    size: int  # in bytes
    modified: int  # time of its content in ns, which a program can set back, as `cp --preserve` does
    changed: int  # time of its status in ns, which none can
    inode: int  # another one after it was replaced


def stamp(path: Path) -> Stamp | None:
    """Take the stamp of a file; None if it is missing, or its folder is closed to this process."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


@contextmanager
def locked(
    path: Path, wait: Callable[[str], None] | None = None, remedy: str = "choose another -o"
) -> Iterator[bool]:
    """Hold the lock of an output: the file `OUT.lock`, which names the process and its host.

    The lock belongs to the kernel, which releases it when the process ends for any reason. A lock that
    another process holds is an error, unless there is `wait`: it is called with the name of that process, for
    which this one then waits. `remedy` is what the user can do if the lock file cannot be created.

    Yields whether the lock is held: not on a file system without locks, where a second process is not
    stopped.
    """
    lock = lock_path(path)
    with creating(path, remedy):
        try:
            descriptor, held = _acquire(lock, wait)
        except BlockingIOError:
            raise OutputBusy(
                f"{path}: {_holder(lock)} is writing it; wait until it ends, or choose another -o"
            ) from None
    try:
        yield held
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _acquire(lock: Path, wait: Callable[[str], None] | None) -> tuple[int, bool]:
    """Open and lock a lock file; returns its descriptor, and whether it is locked."""
    while True:
        descriptor = _open_lock(lock)
        try:
            held = _flock(descriptor, lock, wait)
            if _is_there(lock, descriptor):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
                return descriptor, held
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_there(lock: Path, descriptor: int) -> bool:
    """Whether a lock file is still the one that we opened: its last holder may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), lock.lstat())
    except FileNotFoundError:
        return False


def _open_lock(lock: Path) -> int:
    """Open or make a lock file. A link is not followed, and a file that we did not make is refused."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(lock.lstat().st_mode):
            raise OutputUnwritable(f"{lock}: {NOT_A_LOCK}")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    if not LOCK_CONTENT.fullmatch(os.pread(descriptor, 1000, 0)):
        os.close(descriptor)
        raise OutputUnwritable(f"{lock}: {NOT_A_LOCK}")
    return descriptor


def _flock(descriptor: int, lock: Path, wait: Callable[[str], None] | None) -> bool:
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if wait is None:
                raise
            wait(_holder(lock))
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def _holder(lock: Path) -> str:
    """Name the process that holds a lock; adds a note if it runs on another machine."""
    try:
        holder = lock.read_text(errors="replace").strip()
    except OSError:
        holder = ""
    host = holder.rpartition(" on ")[2]
    elsewhere = host and host != socket.gethostname()
    return f"{holder} (another machine)" if elsewhere else holder or "another process"
