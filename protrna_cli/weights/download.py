"""Download one file over HTTP, resuming where an earlier attempt stopped.

Libraries for such downloads (pooch, requests) start each one from zero. The file grows as `NAME.partial` in
its destination folder; `NAME.partial.json` beside it records which file it belongs to, so that a beginning
is never joined to the rest of another file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from protrna_cli.disk import write_whole, writing
from protrna_cli.errors import WriteFailed
from protrna_cli.text import reason, size_text
from protrna_cli.weights.transport import (
    NotTheSame,
    Passing,
    Patience,
    Unavailable,
    extent_of,
    get,
    patiently,
    received,
    version_of,
    without_query,
)
from protrna_cli.weights.watcher import Watcher

ROOM = "free space and run again, or choose another folder with --weights-dir or PROTRNA_HOME"


@dataclass(frozen=True)
class RemoteFile:
    """A file to be had, and what is known of it beforehand.

    Attributes
    ----------
    address
        `http://`, `https://`, or a path.
    size, md5
        As a record states them; None if none does.
    """

    address: str
    size: int | None = None
    md5: str | None = None


def download(remote: RemoteFile, partial: Path, target: Path, watcher: Watcher, patience: Patience) -> bool:
    """Make `partial` whole; what an earlier call left of the same file stays.

    Parameters
    ----------
    remote
        What to fetch, over HTTP.
    partial
        The file that grows. It is left as it is when this fails, for the next call.
    target
        Its name to be, for the watcher.

    Returns
    -------
    bool
        Whether it begins with what an earlier call left.

    Raises
    ------
    Unavailable
        The server does not give the file.
    WriteFailed
        The disk is full, or cannot be written.
    """
    resumed = _beginning(remote, partial)[0] > 0
    furthest = _size(partial)

    def attempt() -> None:
        nonlocal furthest
        try:
            _fetch_rest(remote, partial, target, watcher, patience.timeout)
        except Passing as failure:
            if isinstance(failure, NotTheSame):
                discard(partial)
            # Bytes that had come before are no progress: without ranges a server could send them for ever.
            failure.progressed = _size(partial) > furthest
            furthest = max(furthest, _size(partial))
            raise

    try:
        patiently(attempt, patience, watcher)
    finally:
        watcher.close()
    return resumed


def copy(source: Path, partial: Path, target: Path, watcher: Watcher) -> None:
    """Copy a file into `partial`, always from its start.

    Raises
    ------
    Unavailable
        The source cannot be read.
    WriteFailed
        The disk is full, or cannot be written.
    """
    try:
        with source.open("rb") as file:
            size = source.stat().st_size
            discard(partial)
            _check_space(partial, size)
            watcher.start(str(source), target, size, 0)
            _append(partial, received(file.read, str(source), size), watcher)
    except OSError as error:
        raise Unavailable(f"{source} cannot be read ({reason(error)})") from None
    except Passing as failure:
        raise Unavailable(str(failure)) from None
    except WriteFailed:
        discard(partial)  # a copy does not go on: what there is of it only fills the disk
        raise
    finally:
        watcher.close()


def discard(partial: Path) -> None:
    """Remove a partial file and what is known of it."""
    partial.unlink(missing_ok=True)
    _state(partial).unlink(missing_ok=True)


def _fetch_rest(remote: RemoteFile, partial: Path, target: Path, watcher: Watcher, timeout: float) -> None:
    """Fetch what `partial` lacks, in one request."""
    have, origin = _beginning(remote, partial)
    if have and have == origin.size:
        return
    with get(remote.address, timeout, _range(remote, have, origin)) as reply:
        start, total = extent_of(reply)
        if remote.size is not None and total not in (None, remote.size):
            raise Unavailable(
                f"{without_query(remote.address)} has {total:,} bytes, not the {remote.size:,} of its record"
            )
        total = remote.size if total is None else total
        version = version_of(reply)
        changed = not remote.md5 and version != origin.version
        if start and (changed or (start, total) != (have, origin.size)):
            raise NotTheSame(f"{without_query(remote.address)} has changed since its first bytes came")
        if total is not None:
            _check_space(partial, total)
        if start == 0:  # also where the server does not know ranges, or has another file than If-Range names
            _begin(partial, _Origin(remote.address, total, remote.md5, version))
        watcher.start(without_query(remote.address), target, total, start)
        rest = None if total is None else total - start
        _append(partial, received(reply.read1, remote.address, rest), watcher)


@dataclass(frozen=True)
class _Origin:
    """What a partial file is the beginning of."""

    address: str
    size: int | None = None
    md5: str | None = None
    version: str | None = None


def _beginning(remote: RemoteFile, partial: Path) -> tuple[int, _Origin]:
    """Count the bytes at hand that are the beginning of `remote`: of equal checksum, else of one address."""
    nothing = _Origin(remote.address)
    try:
        have = partial.stat().st_size
        origin = _Origin(**json.loads(_state(partial).read_text("utf-8")))
    except (OSError, ValueError, TypeError):  # none, or cut short
        return 0, nothing
    same = origin.md5 == remote.md5 if origin.md5 and remote.md5 else origin.address == remote.address
    # Without a size to compare it with, a rest cannot be told from the rest of another file.
    return (have, origin) if same and origin.size is not None and have <= origin.size else (0, nothing)


def _range(remote: RemoteFile, have: int, origin: _Origin) -> dict[str, str]:
    if not have:
        return {}
    headers = {"Range": f"bytes={have}-"}
    # Where there is a checksum it decides. Only a strong ETag is allowed here.
    if not remote.md5 and origin.version and origin.version.startswith('"'):
        headers["If-Range"] = origin.version
    return headers


def _begin(partial: Path, origin: _Origin) -> None:
    with writing(partial, ROOM):
        partial.write_bytes(b"")  # first: these bytes must never be taken for the beginning of another file
        write_whole(_state(partial), json.dumps(asdict(origin)))


def _append(partial: Path, pieces: Iterator[bytes], watcher: Watcher) -> None:
    # What the network raises is not an OSError by now.
    with writing(partial, ROOM), partial.open("ab") as file:
        for piece in pieces:
            file.write(piece)
            watcher.advance(len(piece))


def _check_space(partial: Path, total: int) -> None:
    """Refuse to start on what cannot fit; what is at hand already takes its place."""
    needed = total - _size(partial)
    free = shutil.disk_usage(partial.parent).free
    if needed > free:
        raise WriteFailed(
            f"{partial.parent}: {size_text(needed)} are needed and {size_text(free)} are free; {ROOM}"
        )


def _size(partial: Path) -> int:
    return partial.stat().st_size if partial.exists() else 0


def _state(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")
