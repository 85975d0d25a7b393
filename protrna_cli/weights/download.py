"""Download one file over HTTP, resuming where an earlier attempt stopped.

Libraries for such downloads (pooch, requests) always start from zero. The file grows as `NAME.partial` in its
destination folder; `NAME.partial.json` beside it records which file it belongs to, so the bytes of two
different files are never joined.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from protrna_cli.disk import open_regular, write_whole, writing
from protrna_cli.errors import WriteFailed
from protrna_cli.text import reason, size_text
from protrna_cli.weights.transport import (
    FileChanged,
    RetryPolicy,
    TransientFailure,
    Unavailable,
    extent_of,
    get,
    received,
    version_of,
    with_retries,
    without_query,
)
from protrna_cli.weights.watcher import Watcher

DISK_FULL_REMEDY = "free space and run again, or choose another folder with --weights-dir or PROTRNA_HOME"


@dataclass(frozen=True)
class RemoteFile:
    """A file to download, and what is known about it beforehand.

    Attributes
    ----------
    address
        `http://`, `https://`, or a path.
    size, md5
        Size in bytes and MD5 checksum, as stated by the Zenodo record; None if unknown.
    """

    address: str
    size: int | None = None
    md5: str | None = None


def download(
    remote: RemoteFile, partial: Path, target: Path, watcher: Watcher, retry_policy: RetryPolicy
) -> bool:
    """Download a file into `partial`, after the bytes of the same file that an earlier call left there.

    Parameters
    ----------
    remote
        The file, with an HTTP address.
    partial
        The file to write. After a failure its bytes are kept for the next call.
    target
        Its final path, for the watcher.

    Returns
    -------
    bool
        Whether it begins with bytes from an earlier call.
    """
    resumed = _resume_position(remote, partial)[0] > 0
    furthest = _size(partial)

    def attempt() -> None:
        nonlocal furthest
        try:
            _fetch_rest(remote, partial, target, watcher, retry_policy.timeout)
        except TransientFailure as failure:
            if isinstance(failure, FileChanged):
                discard(partial)
            # Bytes received before do not count: a server without ranges could send them again forever.
            failure.progressed = _size(partial) > furthest
            furthest = max(furthest, _size(partial))
            raise

    try:
        with_retries(attempt, retry_policy, watcher)
    finally:
        watcher.close()
    return resumed


def copy(source: Path, partial: Path, target: Path, watcher: Watcher) -> None:
    """Copy a file into `partial`, always from its start."""
    try:
        with open_regular(source) as file:
            size = source.stat().st_size
            discard(partial)
            _check_space(partial, size)
            _start_file(partial, _Origin(str(source)))
            watcher.start(str(source), target, size, 0)
            _append(partial, received(file.read, str(source), size), watcher)
    except OSError as error:
        raise Unavailable(f"{source} cannot be read ({reason(error)})") from None
    except TransientFailure as failure:
        raise Unavailable(str(failure)) from None
    except WriteFailed:
        discard(partial)  # a copy cannot be resumed, so its bytes only fill the disk
        raise
    finally:
        watcher.close()


def discard(partial: Path) -> None:
    """Remove a partial file and its `NAME.partial.json`."""
    partial.unlink(missing_ok=True)
    origin_path(partial).unlink(missing_ok=True)


def _fetch_rest(remote: RemoteFile, partial: Path, target: Path, watcher: Watcher, timeout: float) -> None:
    """Fetch the missing bytes of `partial` in one request."""
    have, origin = _resume_position(remote, partial)
    if have and have == origin.size:
        return
    with get(remote.address, timeout, _range_headers(remote, have, origin)) as reply:
        start, total = extent_of(reply)
        if remote.size is not None and total not in (None, remote.size):
            raise Unavailable(
                f"{without_query(remote.address)} has {total:,} bytes, but its record states {remote.size:,}"
            )
        total = remote.size if total is None else total
        version = version_of(reply)
        changed = not remote.md5 and version != origin.version
        if start and (changed or (start, total) != (have, origin.size)):
            raise FileChanged(f"{without_query(remote.address)} has changed since its download started")
        if total is not None:
            _check_space(partial, total)
        if start == 0:  # also if the server does not support ranges, or its file differs from If-Range
            _start_file(partial, _Origin(remote.address, total, remote.md5, version))
        watcher.start(without_query(remote.address), target, total, start)
        rest = None if total is None else total - start
        _append(partial, received(reply.read1, remote.address, rest), watcher)


@dataclass(frozen=True)
class _Origin:
    """The file that a partial file belongs to."""

    address: str
    size: int | None = None
    md5: str | None = None
    version: str | None = None


def _resume_position(remote: RemoteFile, partial: Path) -> tuple[int, _Origin]:
    """Count the bytes of `remote` already in `partial`: same checksum, or without one the same address."""
    nothing = _Origin(remote.address)
    have, origin = _size(partial), _read_origin(partial)
    if not have or not origin:
        return 0, nothing
    same = origin.md5 == remote.md5 if origin.md5 and remote.md5 else origin.address == remote.address
    # Without a size to compare, the rest might be the rest of another file.
    return (have, origin) if same and origin.size is not None and have <= origin.size else (0, nothing)


def find_foreign(partial: Path) -> Path | None:
    """Find what protrna did not make: a record that is not one, or a partial file without a record."""
    if _read_origin(partial):
        return None
    if origin_path(partial).exists():
        return origin_path(partial)
    return partial if _size(partial) else None


def _read_origin(partial: Path) -> _Origin | None:
    """Read which file a partial file belongs to; None if that is not recorded."""
    try:
        return _Origin(**json.loads(origin_path(partial).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _range_headers(remote: RemoteFile, have: int, origin: _Origin) -> dict[str, str]:
    if not have:
        return {}
    headers = {"Range": f"bytes={have}-"}
    # A checksum makes this check unnecessary. HTTP allows only a strong ETag here.
    if not remote.md5 and origin.version and origin.version.startswith('"'):
        headers["If-Range"] = origin.version
    return headers


def _start_file(partial: Path, origin: _Origin) -> None:
    with writing(partial, DISK_FULL_REMEDY):
        partial.write_bytes(b"")  # first, so the old bytes are never recorded as those of the new file
        write_whole(origin_path(partial), json.dumps(asdict(origin)))


def _append(partial: Path, blocks: Iterator[bytes], watcher: Watcher) -> None:
    # An OSError here is from the disk; `received` has converted those of the network.
    with writing(partial, DISK_FULL_REMEDY), partial.open("ab") as file:
        for block in blocks:
            file.write(block)
            watcher.advance(len(block))


def _check_space(partial: Path, total: int) -> None:
    """Fail before a download that cannot fit; the bytes already in `partial` need no further space."""
    needed = total - _size(partial)
    free = shutil.disk_usage(partial.parent).free
    if needed > free:
        raise WriteFailed(
            f"{partial.parent}: {size_text(needed)} needed, but only {size_text(free)} free; "
            f"{DISK_FULL_REMEDY}"
        )


def _size(partial: Path) -> int:
    return partial.stat().st_size if partial.exists() else 0


def origin_path(partial: Path) -> Path:
    """Path of the record of which file a partial file belongs to."""
    return partial.with_name(f"{partial.name}.json")
