"""A local server with Zenodo's REST API that serves one file, with the faults that a test asks for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

from protrna_cli.weights.checkpoint import PUBLISHED_FILE
from protrna_cli.weights.fetch import Mirror, zenodo

MAX_REQUESTS = 200


@dataclass(frozen=True)
class Request:
    """A request for the file: first byte, and number of bytes sent."""

    path: str
    start: int
    sent: int


@dataclass
class Zenodo:
    """The server; its attributes may be changed while it runs.

    Attributes
    ----------
    content
        The file.
    checksum
        The checksum in the records; by default that of the file.
    etag
        Kind of the file's ETag: `strong`, `weak` or empty for none.
    ranges, sized
        Whether replies honour Range, and state the file's length.
    cuts
        Numbers of bytes after which the next replies break off, one per reply.
    faults
        Status codes by path prefix: one for every request, or a list to be used up; 0 sends no reply.
    pace
        Seconds between blocks of 16 KiB.
    tls
        Certificate and key, for HTTPS.
    opened
        The file is sent, instead of a byte now and then, once it is set, as it is at first.
    log
        The requests for the file so far.
    """

    content: bytes
    checksum: str | None = None
    etag: str = "strong"
    ranges: bool = True
    sized: bool = True
    cuts: list[int] = field(default_factory=list)
    faults: dict[str, int | list[int]] = field(default_factory=dict)
    pace: float = 0
    tls: tuple[Path, Path] | None = None
    opened: threading.Event = field(default_factory=threading.Event)
    log: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stopping = threading.Event()
        self.opened.set()
        zenodo = self

        class Handler(_Handler):
            server_of = zenodo

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.url = self.url.replace("http:", "https:")
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Zenodo:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        self.opened.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def record(self, number: int = 1) -> Mirror:
        """Mirror in a record; every number is a record."""
        return zenodo(number, self.url)

    @property
    def share(self) -> Mirror:
        """Mirror without a record, behind a redirect, as Dropbox is."""
        return Mirror(f"{self.url}/share/{PUBLISHED_FILE}?key=1")


class _Handler(BaseHTTPRequestHandler):
    server_of: Zenodo

    def do_GET(self) -> None:
        server = self.server_of
        path = self.path.removeprefix(server.url)  # a proxy gets whole addresses
        if len(server.log) >= MAX_REQUESTS:
            raise AssertionError("the client does not give up")
        for start, fault in server.faults.items():
            if path.startswith(start) and fault != []:
                self._fail(fault if isinstance(fault, int) else fault.pop(0))
                return
        if "/api/records/" in path:
            self._send_record()
        elif "/share/" in path:
            self.send_response(302)
            self.send_header("Location", f"{server.url}/files/{PUBLISHED_FILE}")
            self.end_headers()
        else:
            self._send_file(path)

    def _fail(self, code: int) -> None:
        if code:
            self.send_error(code)
        else:
            self.server_of.stopping.wait(10)
        self.close_connection = True

    def _send_record(self) -> None:
        server = self.server_of
        checksum = server.checksum or f"md5:{hashlib.md5(server.content).hexdigest()}"
        files = [
            {"key": "README.md", "size": 12, "checksum": "md5:" + 32 * "0"},
            {"key": PUBLISHED_FILE, "size": len(server.content), "checksum": checksum},
        ]
        body = json.dumps({"id": 1, "files": files}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, path: str) -> None:
        server = self.server_of
        etag = f'"{hashlib.md5(server.content).hexdigest()}"'
        if server.etag == "weak":
            etag = f"W/{etag}"
        start = 0
        asked = self.headers.get("Range")
        if asked and server.ranges and self.headers.get("If-Range", etag) == etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                self.send_error(416)
                return
        whole = len(server.content)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        if server.sized:
            self.send_header("Content-Length", str(whole - start))
        if server.etag:
            self.send_header("ETag", etag)
        self.end_headers()
        stop = start + server.cuts.pop(0) if server.cuts else whole
        body = server.content[start:stop]
        server.log.append(Request(path, start, len(body)))
        sent = 0
        while not server.opened.wait(0.1):
            self.wfile.write(body[sent : sent + 1])
            sent += 1
        for at in range(sent, len(body), 1 << 14):
            self.wfile.write(body[at : at + (1 << 14)])
            server.stopping.wait(server.pace)
        self.close_connection = True

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client was killed, or closed the connection
            super().handle()

    def log_message(self, *_: object) -> None:
        pass
