"""A file server on this machine that cuts, lies, refuses, flips and dawdles as told."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BLOCK = 16 << 10


@dataclass
class Behaviour:
    """What the server does; one entry of a list is used up by each request, then it is normal.

    Attributes:
        files: path (without the slash) -> content.
        tag: ETag, '' for none; dates are never sent.
        ranges: it can send parts.
        announces: it says so.
        heeds_if_range: it sends the whole file to who has a part of another one.
        cuts: bytes of the body after which the connection ends.
        answers: statuses instead of the file.
        retry_after: seconds that go with such an answer.
        flips: offsets in the file of which a bit is turned over.
        always_flip: the same for every request.
        claim: bytes by which the announced length is wrong.
        most: connections at once; 503 for more.
        bytes_per_s: of one connection.
        watch: called with all bytes sent so far, before each block.
        seen: (path, Range) of the requests.
        sent: bytes of bodies, all requests together.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    tag: str = '"one"'
    ranges: bool = True
    announces: bool = True
    heeds_if_range: bool = True
    cuts: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    retry_after: str = ""
    flips: list[int] = field(default_factory=list)
    always_flip: int = -1
    claim: int = 0
    most: int = 1000
    bytes_per_s: float = 0.0
    watch: Callable[[int], None] | None = None
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    sent: int = 0
    busy: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour

    def setup(self) -> None:
        # Little on the way: what a killed reader had not read yet counts as sent.
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * BLOCK)
        super().setup()

    def do_GET(self) -> None:
        b = self.behaviour
        with b.lock:
            b.seen.append((self.path.lstrip("/"), self.headers.get("Range")))
            b.busy += 1
            crowded = b.busy > b.most
        try:
            self._answer(b, crowded)
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        finally:
            with b.lock:
                b.busy -= 1

    def _answer(self, b: Behaviour, crowded: bool) -> None:
        body = b.files.get(self.path.lstrip("/"))
        if crowded or b.answers or body is None:
            self.send_response(503 if crowded else b.answers.pop(0) if b.answers else 404)
            self.send_header("Content-Length", "0")
            if b.retry_after:
                self.send_header("Retry-After", b.retry_after)
            self.end_headers()
            return
        start, end, partial = 0, len(body), False
        wanted = self.headers.get("Range")
        same = not b.heeds_if_range or self.headers.get("If-Range", b.tag) == b.tag
        if wanted and b.ranges and same:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end, partial = int(first), int(last) + 1 if last else len(body), True
        if start >= len(body) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._head(b, start, end, len(body), partial)
        self._body(b, body, start, end)

    def _head(self, b: Behaviour, start: int, end: int, total: int, partial: bool) -> None:
        self.send_response(206 if partial else 200)
        if b.tag:
            self.send_header("ETag", b.tag)
        if b.announces:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - start + b.claim))
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{total}")
        self.end_headers()

    def _body(self, b: Behaviour, body: bytes, start: int, end: int) -> None:
        flips = [*([b.flips.pop(0)] if b.flips else []), *([b.always_flip] if b.always_flip >= 0 else [])]
        end = min(end, start + b.cuts.pop(0)) if b.cuts else end
        begun = time.monotonic()
        for at in range(start, end, BLOCK):
            block = bytearray(body[at : min(at + BLOCK, end)])
            for flip in flips:
                if at <= flip < at + len(block):
                    block[flip - at] ^= 1
            if b.watch:
                b.watch(b.sent)
            self.wfile.write(block)
            with b.lock:
                b.sent += len(block)
            if b.bytes_per_s:
                time.sleep(max(0.0, begun + (at + len(block) - start) / b.bytes_per_s - time.monotonic()))

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@contextlib.contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """Address of a running server, without a slash at the end."""
    handler = type("OneHandler", (Handler,), {"behaviour": behaviour})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        httpd.server_close()
