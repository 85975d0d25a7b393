"""Download one file over HTTP, resuming where an earlier attempt stopped.

Libraries for such downloads (pooch, requests) always start from zero. The file grows as `NAME.partial` in its
destination folder; `NAME.partial.json` beside it records which file it belongs to, so the bytes of two
different files are never joined.

Failures that may be temporary are retried. Requests go through the standard library, so that proxies
(`https_proxy`, `no_proxy`) and certificates (`SSL_CERT_FILE`, `SSL_CERT_DIR`) work as everywhere in Python.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

from protrna_cli.disk import open_regular, write_whole, writing
from protrna_cli.errors import WriteFailed
from protrna_cli.text import reason, size_text, unreadable, version
from protrna_cli.weights.checkpoint import Watcher

READ_BYTES = 1 << 20
TRANSIENT_STATUSES = {408, 425, 429, 500, 502, 503, 504}
MAX_WAIT = 60.0

_T = TypeVar("_T")


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait for a server, and how often to retry."""

    timeout: float = 15.0  # seconds without a byte after which a connection counts as broken
    retries: int = 4  # consecutive attempts after the first that yield no new byte
    pause: float = 1.0  # seconds before the first retry; each consecutive retry waits twice as long


class Unavailable(Exception):
    """A source provides no file, or a wrong one; the next mirror may have it."""


class TransientFailure(Exception):
    """A failure that may be temporary."""

    def __init__(self, reason: str, *, connected: bool = True, wait: float = 0) -> None:
        super().__init__(reason)
        self.progressed = False  # whether new bytes were received before; set by the caller
        self.connected = connected  # whether the server was reached
        self.wait = min(wait, MAX_WAIT)  # seconds, as the server requests (`Retry-After`)


class FileChanged(TransientFailure):
    """The bytes downloaded so far are not the beginning of the server's file."""


def fetch_small(address: str, retry_policy: RetryPolicy, watcher: Watcher) -> bytes:
    """Fetch a small document into memory; anything after 1 MiB is ignored."""

    def attempt() -> bytes:
        with get(address, retry_policy.timeout, {}) as reply:
            return next(received(reply.read, address, None), b"")

    return with_retries(attempt, retry_policy, watcher)


def with_retries(attempt: Callable[[], _T], retry_policy: RetryPolicy, watcher: Watcher) -> _T:
    """Call `attempt` until it succeeds, with a pause after each failure that may be temporary.

    Raises Unavailable if the failures persist. A host that was never reached is not tried again, so the error
    is quick if there is no network.
    """
    failures, progressed = 0, False
    while True:
        try:
            return attempt()
        except TransientFailure as failure:
            progressed |= failure.progressed
            failures = 1 if failure.progressed else failures + 1
            if failures > retry_policy.retries or not (failure.connected or progressed):
                raise Unavailable(str(failure)) from failure
            wait = max(failure.wait, retry_policy.pause * 2 ** (failures - 1))
            watcher.note(f"{failure}; trying again in {wait:.0f} s")
        time.sleep(wait)


@contextmanager
def get(address: str, timeout: float, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
    """Send a GET request; yields the reply. Raises Unavailable, or TransientFailure if a retry may help."""
    # No compression: ranges must count the bytes of the file itself.
    fixed = {"User-Agent": f"protrna/{version()}", "Accept-Encoding": "identity"}
    try:
        request = urllib.request.Request(address, headers=fixed | headers)
        # A new opener, because the standard library's shared one keeps the proxies of its first use.
        reply = urllib.request.build_opener().open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        raise _http_failure(address, error) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            hint = "SSL_CERT_FILE names the certificates to trust"
            raise Unavailable(f"{without_query(address)}: {error.reason} ({hint})") from None
        raise TransientFailure(
            f"{request.host} cannot be reached ({reason(error.reason)})", connected=False
        ) from None
    except (http.client.InvalidURL, ValueError) as error:
        raise Unavailable(f"{without_query(address)} is not a valid address ({error})") from None
    except (OSError, http.client.HTTPException) as error:
        raise TransientFailure(f"{without_query(address)} does not answer ({reason(error)})") from None
    with reply:
        yield reply


def _http_failure(address: str, error: urllib.error.HTTPError) -> Exception:
    answer = f"{without_query(address)} answers {error.code} {error.reason}"
    if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return FileChanged(answer)
    if error.code not in TRANSIENT_STATUSES:
        return Unavailable(answer)
    asked = error.headers.get("Retry-After", "")
    return TransientFailure(answer, wait=float(asked) if asked.isdigit() else 0)


def extent_of(reply: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Position in the file at which the reply starts, and the file's size in bytes, or None if not stated."""
    if reply.status != HTTPStatus.PARTIAL_CONTENT:
        length = reply.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    extent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", reply.headers.get("Content-Range", ""))
    if extent is None:
        raise FileChanged(f"{without_query(reply.url)} sends a range of the file without stating which")
    return int(extent[1]), int(extent[2])


def received(read: Callable[[int], bytes], address: str, expected: int | None) -> Iterator[bytes]:
    """Read a reply block by block; raises TransientFailure if the connection breaks or ends early."""
    received = 0
    try:
        while block := read(READ_BYTES):
            received += len(block)
            yield block
    except (OSError, http.client.HTTPException) as error:
        raise TransientFailure(
            f"{without_query(address)} could not be read to the end ({reason(error)})"
        ) from None
    if expected is not None and received < expected:
        raise TransientFailure(f"{without_query(address)} ended {expected - received:,} bytes early")


def without_query(address: str) -> str:
    """Remove the query from an address, which is long and may contain a key.

    >>> without_query("https://example.org/weights.h5?key=secret")
    'https://example.org/weights.h5'
    """
    return address.partition("?")[0]


DISK_FULL_REMEDY = "free space and run again, or choose another folder with --weights-dir or PROTRNA_HOME"


@dataclass(frozen=True)
class RemoteFile:
    """A file to download, with the size in bytes and the MD5 checksum that its Zenodo record states."""

    address: str  # `http://`, `https://`, or a path
    size: int | None = None
    md5: str | None = None


@dataclass(frozen=True)
class Transfer:
    """Brings a file into `partial`, whose final path is `target`, and tells a watcher how it goes."""

    partial: Path
    target: Path
    watcher: Watcher
    retry_policy: RetryPolicy

    def download(self, remote: RemoteFile) -> bool:
        """Download a file, after the bytes of the same file that an earlier call left there.

        After a failure they are kept for the next call. Returns whether it begins with bytes from an earlier
        call.
        """
        resumed = _resume_position(remote, self.partial)[0] > 0
        furthest = _size(self.partial)

        def attempt() -> None:
            nonlocal furthest
            try:
                self._fetch_rest(remote)
            except TransientFailure as failure:
                if isinstance(failure, FileChanged):
                    discard(self.partial)
                # Bytes received before do not count: a server without ranges could send them again forever.
                failure.progressed = _size(self.partial) > furthest
                furthest = max(furthest, _size(self.partial))
                raise

        try:
            with_retries(attempt, self.retry_policy, self.watcher)
        finally:
            self.watcher.close()
        return resumed

    def copy(self, source: Path) -> None:
        """Copy a file, always from its start."""
        try:
            with open_regular(source) as file:
                size = source.stat().st_size
                discard(self.partial)
                _check_space(self.partial, size)
                _start_file(self.partial, _Origin(str(source)))
                self.watcher.start(str(source), self.target, size, 0)
                self._append(received(file.read, str(source), size))
        except OSError as error:
            raise Unavailable(f"{source} {unreadable(error)}") from None
        except TransientFailure as failure:
            raise Unavailable(str(failure)) from None
        except WriteFailed:
            discard(self.partial)  # a copy cannot be resumed, so its bytes only fill the disk
            raise
        finally:
            self.watcher.close()

    def _fetch_rest(self, remote: RemoteFile) -> None:
        """Fetch the missing bytes in one request."""
        name = without_query(remote.address)
        have, origin = _resume_position(remote, self.partial)
        if have and have == origin.size:
            return
        with get(remote.address, self.retry_policy.timeout, _range_headers(remote, have, origin)) as reply:
            start, total = extent_of(reply)
            if remote.size is not None and total not in (None, remote.size):
                raise Unavailable(f"{name} has {total:,} bytes, but its record states {remote.size:,}")
            total = remote.size if total is None else total
            version = reply.headers.get("ETag") or reply.headers.get("Last-Modified")
            changed = not remote.md5 and version != origin.version
            if start and (changed or (start, total) != (have, origin.size)):
                raise FileChanged(f"{name} has changed since its download started")
            if total is not None:
                _check_space(self.partial, total)
            if start == 0:  # also if the server does not support ranges, or its file differs from If-Range
                _start_file(self.partial, _Origin(remote.address, total, remote.md5, version))
            self.watcher.start(name, self.target, total, start)
            rest = None if total is None else total - start
            self._append(received(reply.read1, remote.address, rest))

    def _append(self, blocks: Iterator[bytes]) -> None:
        # An OSError here is from the disk; `received` has converted those of the network.
        with writing(self.partial, DISK_FULL_REMEDY), self.partial.open("ab") as file:
            for block in blocks:
                file.write(block)
                self.watcher.advance(len(block))


def discard(partial: Path) -> None:
    """Remove a partial file and its `NAME.partial.json`."""
    partial.unlink(missing_ok=True)
    origin_path(partial).unlink(missing_ok=True)


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
