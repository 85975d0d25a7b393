"""HTTP requests, with retries for failures that may be temporary.

Requests go through the standard library, so that proxies (`https_proxy`, `no_proxy`) and certificates
(`SSL_CERT_FILE`, `SSL_CERT_DIR`) work as everywhere in Python.
"""

from __future__ import annotations

import http.client
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

from protrna_cli._version import version
from protrna_cli.text import reason
from protrna_cli.weights.watcher import Watcher

READ_BYTES = 1 << 20
TRANSIENT_STATUSES = {408, 425, 429, 500, 502, 503, 504}
MAX_WAIT = 60.0

_T = TypeVar("_T")


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait for a server, and how often to retry.

    Attributes
    ----------
    timeout
        Seconds without a byte after which a connection counts as broken.
    retries
        Consecutive attempts after the first that yield no new byte; a new byte resets the count.
    pause
        Seconds before the first retry; each consecutive retry waits twice as long.
    """

    timeout: float = 15.0
    retries: int = 4
    pause: float = 1.0


class Unavailable(Exception):
    """A source provides no file, or a wrong one; the next mirror may have it."""


class TransientFailure(Exception):
    """A failure that may be temporary.

    Attributes
    ----------
    connected
        Whether the server was reached.
    wait
        Seconds to wait, as the server requests (`Retry-After`), at most 60.
    progressed
        Whether new bytes were received before the failure; set by the caller.
    """

    def __init__(self, reason: str, *, connected: bool = True, wait: float = 0) -> None:
        super().__init__(reason)
        self.progressed = False
        self.connected = connected
        self.wait = min(wait, MAX_WAIT)


class FileChanged(TransientFailure):
    """The bytes downloaded so far are not the beginning of the server's file."""


def fetch_small(address: str, retry_policy: RetryPolicy, watcher: Watcher) -> bytes:
    """Fetch a small document into memory; anything after 1 MiB is ignored.

    Raises
    ------
    Unavailable
        The server does not provide it.
    """

    def attempt() -> bytes:
        with get(address, retry_policy.timeout, {}) as reply:
            return next(received(reply.read, address, None), b"")

    return with_retries(attempt, retry_policy, watcher)


def with_retries(attempt: Callable[[], _T], retry_policy: RetryPolicy, watcher: Watcher) -> _T:
    """Call `attempt` until it succeeds, with a pause after each failure that may be temporary.

    Raises
    ------
    Unavailable
        The failures persist. A host that was never reached is not tried again, so the error is quick if there
        is no network.
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
    """Send a GET request; yields the reply if it is successful.

    Raises
    ------
    Unavailable
        The request fails.
    TransientFailure
        The request fails, perhaps temporarily.
    """
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


def version_of(reply: http.client.HTTPResponse) -> str | None:
    """Identifier of the file's version: `ETag`, else `Last-Modified`, else None."""
    return reply.headers.get("ETag") or reply.headers.get("Last-Modified")


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
    """Read a reply block by block; network errors and an early end are failures that may be temporary.

    Raises
    ------
    TransientFailure
        The connection broke, or ended before the `expected` number of bytes.
    """
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
