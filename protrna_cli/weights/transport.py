"""One request over HTTP, its reply, and the patience with those that fail.

The standard library speaks to the servers, so that proxies (`https_proxy`, `no_proxy`) and certificates
(`SSL_CERT_FILE`, `SSL_CERT_DIR`) are honoured as everywhere in Python.
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
MAY_PASS = {408, 425, 429, 500, 502, 503, 504}
LONGEST_WAIT = 60.0

_T = TypeVar("_T")


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for.

    Attributes
    ----------
    timeout
        Seconds without a byte until a connection counts as broken.
    retries
        Attempts after the first, in a row without a new byte; what brings one starts the count anew.
    pause
        Seconds before the first retry; each one in a row waits twice as long.
    """

    timeout: float = 15.0
    retries: int = 4
    pause: float = 1.0


class Unavailable(Exception):
    """A source gave no file, or not the right one. The next may."""


class Passing(Exception):
    """A failure that may pass.

    Attributes
    ----------
    connected
        Whether the server was reached.
    wait
        Seconds that it asked to be left alone.
    progressed
        Whether something new came before the failure; for the caller to say.
    """

    def __init__(self, reason: str, *, connected: bool = True, wait: float = 0) -> None:
        super().__init__(reason)
        self.progressed = False
        self.connected = connected
        self.wait = min(wait, LONGEST_WAIT)


class NotTheSame(Passing):
    """What is at hand is not the beginning of what the server has."""


def fetch_small(address: str, patience: Patience, watcher: Watcher) -> bytes:
    """Fetch something that is read at once; what is beyond 1 MiB of it is left.

    Raises
    ------
    Unavailable
        The server does not give it.
    """

    def attempt() -> bytes:
        with get(address, patience.timeout, {}) as reply:
            return next(received(reply.read, address, None), b"")

    return patiently(attempt, patience, watcher)


def patiently(attempt: Callable[[], _T], patience: Patience, watcher: Watcher) -> _T:
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
        except Passing as failure:
            progressed |= failure.progressed
            failures = 1 if failure.progressed else failures + 1
            if failures > patience.retries or not (failure.connected or progressed):
                raise Unavailable(str(failure)) from failure
            wait = max(failure.wait, patience.pause * 2 ** (failures - 1))
            watcher.note(f"{failure}; trying again in {wait:.0f} s")
        time.sleep(wait)


@contextmanager
def get(address: str, timeout: float, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
    """Send a GET request; yields the reply of a server that has what is asked for.

    Raises
    ------
    Unavailable, Passing
        There is none; it may pass.
    """
    # No encoding: a range counts bytes of the file, not of its compressed form.
    fixed = {"User-Agent": f"protrna/{version()}", "Accept-Encoding": "identity"}
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
            raise Unavailable(f"{without_query(address)}: {error.reason} ({hint})") from None
        raise Passing(f"{request.host} cannot be reached ({reason(error.reason)})", connected=False) from None
    except (http.client.InvalidURL, ValueError) as error:
        raise Unavailable(f"{without_query(address)} is no address ({error})") from None
    except (OSError, http.client.HTTPException) as error:
        raise Passing(f"{without_query(address)} gives no answer ({reason(error)})") from None
    with reply:
        yield reply


def _refusal(address: str, error: urllib.error.HTTPError) -> Exception:
    answer = f"{without_query(address)} answers {error.code} {error.reason}"
    if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return NotTheSame(answer)
    if error.code not in MAY_PASS:
        return Unavailable(answer)
    asked = error.headers.get("Retry-After", "")
    return Passing(answer, wait=float(asked) if asked.isdigit() else 0)


def version_of(reply: http.client.HTTPResponse) -> str | None:
    """What the server tells the versions of a file apart by, if by anything."""
    return reply.headers.get("ETag") or reply.headers.get("Last-Modified")


def extent_of(reply: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Where the reply starts in the file, and how long the file is, if the server tells."""
    if reply.status != HTTPStatus.PARTIAL_CONTENT:
        length = reply.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    extent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", reply.headers.get("Content-Range", ""))
    if extent is None:
        raise NotTheSame(f"{without_query(reply.url)} sends a part of the file and does not say which")
    return int(extent[1]), int(extent[2])


def received(read: Callable[[int], bytes], address: str, expected: int | None) -> Iterator[bytes]:
    """Read piece by piece; what the network does is a failure that may pass, and so is an early end.

    Raises
    ------
    Passing
        The connection broke, or ended before what was expected had come.
    """
    received = 0
    try:
        while block := read(READ_BYTES):
            received += len(block)
            yield block
    except (OSError, http.client.HTTPException) as error:
        raise Passing(f"{without_query(address)} broke off ({reason(error)})") from None
    if expected is not None and received < expected:
        raise Passing(f"{without_query(address)} broke off {expected - received:,} bytes early")


def without_query(address: str) -> str:
    """Say an address without its query, which is long and may be a key.

    >>> without_query("https://example.org/weights.h5?key=secret")
    'https://example.org/weights.h5'
    """
    return address.partition("?")[0]
