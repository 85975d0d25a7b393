"""One file over HTTP, gone on with where an earlier attempt stopped.

pooch, which does our cache folder and our hashing, starts every download from zero; this is the part that it
lacks. The file grows as `NAME.partial` in its destination folder; `NAME.partial.json` beside it says what
file it is the beginning of, so that a beginning is never joined to the end of another file.

The standard library speaks to the servers, so that proxies (`https_proxy`, `no_proxy`) and certificates
(`SSL_CERT_FILE`, `SSL_CERT_DIR`) are honoured as everywhere in Python.
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

from protrna_cli import __version__
from protrna_cli.errors import WriteFailed
from protrna_cli.weights.watch import Watcher, size_text

CHUNK = 1 << 20
MAY_PASS = {408, 425, 429, 500, 502, 503, 504}
LONGEST_WAIT = 60.0

_T = TypeVar("_T")


@dataclass(frozen=True)
class Source:
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


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for.

    Attributes
    ----------
    timeout
        Seconds without a byte until a connection counts as broken.
    retries
        Attempts after the first, in a row without a byte; what brings a byte starts the count anew.
    pause
        Seconds before the first retry; each one in a row waits twice as long.
    """

    timeout: float = 15.0
    retries: int = 4
    pause: float = 1.0


class Unavailable(Exception):
    """A source gave no file, or not the right one. The next may."""


class _Passing(Exception):
    """A failure that may pass."""

    def __init__(
        self, reason: str, *, progressed: bool = False, connected: bool = True, wait: float = 0
    ) -> None:
        super().__init__(reason)
        self.progressed = progressed
        self.connected = connected
        self.wait = min(wait, LONGEST_WAIT)


class _NotTheSame(_Passing):
    """What is at hand is not the beginning of what the server has."""


def download(source: Source, partial: Path, target: Path, watcher: Watcher, patience: Patience) -> bool:
    """Make `partial` whole; what an earlier call left of the same file stays.

    Parameters
    ----------
    source
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
    resumed = _beginning(source, partial)[0] > 0

    def attempt() -> None:
        try:
            _fetch_rest(source, partial, target, watcher, patience.timeout)
        except _NotTheSame:
            discard(partial)
            raise

    try:
        _patiently(attempt, patience, watcher)
    finally:
        watcher.close()
    return resumed


def fetch_small(address: str, patience: Patience, watcher: Watcher) -> bytes:
    """Fetch something that is read at once; what is beyond 1 MiB of it is left.

    Raises
    ------
    Unavailable
        The server does not give it.
    """

    def attempt() -> bytes:
        with _get(address, patience.timeout, {}) as reply:
            return next(_chunks(reply.read, address, None), b"")

    return _patiently(attempt, patience, watcher)


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
            _append(partial, _chunks(file.read, str(source), size), watcher)
    except OSError as error:
        raise Unavailable(f"{source} cannot be read ({_said(error)})") from None
    except _Passing as failure:
        raise Unavailable(str(failure)) from None
    finally:
        watcher.close()


def discard(partial: Path) -> None:
    """Remove a partial file and what is known of it."""
    partial.unlink(missing_ok=True)
    _state(partial).unlink(missing_ok=True)


def _patiently(attempt: Callable[[], _T], patience: Patience, watcher: Watcher) -> _T:
    """Attempt until it succeeds; after a failure that may pass, pause and try again.

    Raises
    ------
    Unavailable
        The failures do not pass. A host that was never reached is not tried again: without a network the
        answer must be quick.
    """
    failures, progressed = 0, False
    while True:
        try:
            return attempt()
        except _Passing as failure:
            progressed |= failure.progressed
            failures = 1 if failure.progressed else failures + 1
            if failures > patience.retries or not (failure.connected or progressed):
                raise Unavailable(str(failure)) from failure
            wait = max(failure.wait, patience.pause * 2 ** (failures - 1))
            watcher.note(f"{failure}; trying again in {wait:.0f} s")
        time.sleep(wait)


@contextmanager
def _get(address: str, timeout: float, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
    """Send a GET request; yields the reply of a server that has what is asked for.

    Raises
    ------
    Unavailable, _Passing
        There is none; it may pass.
    """
    # No encoding: a range counts bytes of the file, not of its compressed form.
    fixed = {"User-Agent": f"protrna/{__version__}", "Accept-Encoding": "identity"}
    try:
        request = urllib.request.Request(address, headers=fixed | headers)
        # An opener of our own: the standard library's shared one keeps the proxies of its first use.
        reply = urllib.request.build_opener().open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        raise _refusal(address, error) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            hint = "SSL_CERT_FILE names the certificates to trust"
            raise Unavailable(f"{place(address)}: {error.reason} ({hint})") from None
        reason = f"{request.host} cannot be reached ({_said(error.reason)})"
        raise _Passing(reason, connected=False) from None
    except http.client.InvalidURL as error:
        raise Unavailable(f"{place(address)} is no address ({error})") from None
    except (OSError, http.client.HTTPException) as error:
        raise _Passing(f"{place(address)} gives no answer ({_said(error)})") from None
    with reply:
        yield reply


def _refusal(address: str, error: urllib.error.HTTPError) -> Exception:
    reason = f"{place(address)} answers {error.code} {error.reason}"
    if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return _NotTheSame(reason)
    if error.code not in MAY_PASS:
        return Unavailable(reason)
    asked = error.headers.get("Retry-After", "")
    return _Passing(reason, wait=float(asked) if asked.isdigit() else 0)


def _fetch_rest(source: Source, partial: Path, target: Path, watcher: Watcher, timeout: float) -> None:
    """Fetch what `partial` lacks, in one request."""
    have, origin = _beginning(source, partial)
    if have and have == origin.size:
        return
    with _get(source.address, timeout, _range(source, have, origin)) as reply:
        start, total = _extent(reply)
        if source.size is not None and total not in (None, source.size):
            raise Unavailable(
                f"{place(source.address)} has {total:,} bytes, not the {source.size:,} of its record"
            )
        version = _version(reply)
        changed = origin.address == source.address and version != origin.version
        if start and (changed or (start, total) != (have, origin.size)):
            raise _NotTheSame(f"{place(source.address)} has changed since its first bytes came")
        if total is not None:
            _check_space(partial, total)
        if start == 0:  # also where the server does not know ranges, or has another file than If-Range names
            _begin(partial, _Origin(source.address, total, source.md5, version))
        watcher.start(place(source.address), target, total, start)
        rest = None if total is None else total - start
        _append(partial, _chunks(reply.read1, source.address, rest), watcher)


@dataclass(frozen=True)
class _Origin:
    """What a partial file is the beginning of."""

    address: str
    size: int | None = None
    md5: str | None = None
    version: str | None = None


def _beginning(source: Source, partial: Path) -> tuple[int, _Origin]:
    """Count the bytes at hand that are the beginning of `source`: of equal checksum, else of one address."""
    nothing = _Origin(source.address)
    try:
        have = partial.stat().st_size
        origin = _Origin(**json.loads(_state(partial).read_text("utf-8")))
    except (OSError, ValueError, TypeError):  # none, or cut short
        return 0, nothing
    same = origin.md5 == source.md5 if origin.md5 and source.md5 else origin.address == source.address
    # Without a size to compare it with, a rest cannot be told from the rest of another file.
    return (have, origin) if same and origin.size is not None and have <= origin.size else (0, nothing)


def _range(source: Source, have: int, origin: _Origin) -> dict[str, str]:
    if not have:
        return {}
    headers = {"Range": f"bytes={have}-"}
    # Only a strong ETag is allowed here, and another server's says nothing.
    if origin.version and origin.version.startswith('"') and origin.address == source.address:
        headers["If-Range"] = origin.version
    return headers


def _version(reply: http.client.HTTPResponse) -> str | None:
    """What the server tells the versions of a file apart by, if by anything."""
    return reply.headers.get("ETag") or reply.headers.get("Last-Modified")


def _extent(reply: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Where the reply starts in the file, and how long the file is, if the server tells."""
    if reply.status != HTTPStatus.PARTIAL_CONTENT:
        length = reply.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    extent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", reply.headers.get("Content-Range", ""))
    if extent is None:
        raise _NotTheSame(f"{place(reply.url)} sends a part of the file and does not say which")
    return int(extent[1]), int(extent[2])


def _chunks(read: Callable[[int], bytes], address: str, expected: int | None) -> Iterator[bytes]:
    received = 0
    try:
        while chunk := read(CHUNK):
            received += len(chunk)
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        reason = f"{place(address)} broke off ({_said(error)})"
        raise _Passing(reason, progressed=received > 0) from None
    if expected is not None and received < expected:
        raise _Passing(
            f"{place(address)} broke off {expected - received:,} bytes early", progressed=received > 0
        )


def _begin(partial: Path, origin: _Origin) -> None:
    with _writing(partial):
        partial.write_bytes(b"")  # first: bytes must never stand under the name of another file
        _state(partial).write_text(json.dumps(asdict(origin)), "utf-8")


def _append(partial: Path, chunks: Iterator[bytes], watcher: Watcher) -> None:
    with _writing(partial), partial.open("ab") as file:
        for chunk in chunks:
            file.write(chunk)
            watcher.advance(len(chunk))


@contextmanager
def _writing(partial: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # the network's errors are no OSError by now
        raise WriteFailed(
            f"{partial}: writing failed ({_said(error)}); free space and run again, which goes on from here, "
            "or choose another folder with --to or PROTRNA_HOME"
        ) from error


def _check_space(partial: Path, total: int) -> None:
    """Refuse to start on what cannot fit; what is at hand already takes its place."""
    needed = total - (partial.stat().st_size if partial.exists() else 0)
    free = shutil.disk_usage(partial.parent).free
    if needed > free:
        raise WriteFailed(
            f"{partial.parent}: {size_text(needed)} are needed and {size_text(free)} are free; free space, "
            "or choose another folder with --to or PROTRNA_HOME"
        )


def _state(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def place(address: str) -> str:
    """Say an address without its query, which is long and may be a key.

    >>> place("https://example.org/weights.h5?key=secret")
    'https://example.org/weights.h5'
    """
    return address.partition("?")[0]


def _said(error: object) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
