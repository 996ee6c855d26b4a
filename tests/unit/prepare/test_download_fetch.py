"""Downloading against a server on this machine that cuts, lies, refuses and flips bytes."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from detector.errors import DatasetError
from detector.fetch import Patience, fetch

BODY = random.Random(5).randbytes(300_000)
SHA = "sha256:" + hashlib.sha256(BODY).hexdigest()
QUICK = Patience(attempts=3, wait_s=0.001, timeout_s=2)


@dataclass
class Behaviour:
    """What the server does; one entry of a list per request, then normal."""

    body: bytes = BODY
    tag: str = '"one"'
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    flips: list[int] = field(default_factory=list)
    claim: int = 0
    seen: list[str | None] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour

    def do_GET(self) -> None:
        b = self.behaviour
        wanted = self.headers.get("Range")
        b.seen.append(wanted)
        if b.answers:
            self.send_error(b.answers.pop(0))
            return
        start = 0
        if wanted and b.ranges and self.headers.get("If-Range") == b.tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        body = bytearray(b.body)
        if b.flips:
            body[b.flips.pop(0)] ^= 1
        if start and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", b.tag)
        self.send_header("Content-Length", str(len(body) - start + b.claim))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        end = start + b.cuts.pop(0) if b.cuts else len(body)
        self.wfile.write(bytes(body[start:end]))

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def server() -> Iterator[tuple[str, Behaviour]]:
    behaviour = Behaviour()
    handler = type("OneHandler", (Handler,), {"behaviour": behaviour})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/data.zip", behaviour
    httpd.shutdown()
    httpd.server_close()


Server = tuple[str, Behaviour]


def leftovers(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()} - {"data.zip"}


def test_plain_download_with_progress(server: Server, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    path = fetch(server[0], tmp_path / "data.zip", checksum=SHA, progress=lambda d, t: calls.append((d, t)))
    assert path.read_bytes() == BODY
    assert calls[-1] == (300_000, 300_000)
    assert leftovers(tmp_path) == set()


def test_file_that_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(BODY)
    fetch(server[0], tmp_path / "data.zip", checksum=SHA)
    assert server[1].seen == []


def test_cut_connections_are_resumed(server: Server, tmp_path: Path) -> None:
    server[1].cuts = [100_000, 50_000, 1, 70_000]
    assert fetch(server[0], tmp_path / "data.zip", checksum=SHA, patience=QUICK).read_bytes() == BODY
    assert server[1].seen == [None, "bytes=100000-", "bytes=150000-", "bytes=150001-", "bytes=220001-"]


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no-ranges"])
def test_later_call_goes_on(server: Server, tmp_path: Path, ranges: bool) -> None:
    server[1].cuts, server[1].ranges = [120_000] + [0] * 3, ranges
    with pytest.raises(DatasetError, match="the connection ended after 120000 of 300000 bytes"):
        fetch(server[0], tmp_path / "data.zip", checksum=SHA, patience=Patience(1, 0.001, 2))
    assert not (tmp_path / "data.zip").exists()
    server[1].cuts = []
    assert fetch(server[0], tmp_path / "data.zip", checksum=SHA, patience=QUICK).read_bytes() == BODY


def test_changed_file_on_the_server_is_not_mixed(server: Server, tmp_path: Path) -> None:
    server[1].cuts = [120_000]
    with pytest.raises(DatasetError):
        fetch(server[0], tmp_path / "data.zip", patience=Patience(1, 0.001, 2))
    server[1].body, server[1].tag = b"another" * 100, '"two"'
    assert fetch(server[0], tmp_path / "data.zip", patience=QUICK).read_bytes() == b"another" * 100


@pytest.mark.parametrize("answer", [503, 429, 500])
def test_passing_refusals_are_waited_out(server: Server, tmp_path: Path, answer: int) -> None:
    server[1].answers = [answer, answer]
    assert fetch(server[0], tmp_path / "data.zip", patience=QUICK).read_bytes() == BODY


def test_gives_up_after_the_attempts(server: Server, tmp_path: Path) -> None:
    server[1].answers = [503] * 9
    with pytest.raises(
        DatasetError, match="the server answered 503 Service Unavailable; expected the whole file"
    ):
        fetch(server[0], tmp_path / "data.zip", patience=QUICK)
    assert len(server[1].seen) == 3


def test_missing_file_is_not_tried_again(server: Server, tmp_path: Path) -> None:
    server[1].answers = [404]
    with pytest.raises(DatasetError, match="the server answered 404 Not Found, expected the file"):
        fetch(server[0], tmp_path / "data.zip", patience=QUICK)
    assert len(server[1].seen) == 1


def test_flipped_byte_is_found_and_fetched_again(server: Server, tmp_path: Path) -> None:
    server[1].flips = [123_456]
    assert fetch(server[0], tmp_path / "data.zip", checksum=SHA, patience=QUICK).read_bytes() == BODY


def test_wrong_digest_is_an_error_and_leaves_no_file(server: Server, tmp_path: Path) -> None:
    wrong = "md5:" + "0" * 32
    with pytest.raises(
        DatasetError, match=rf"came with md5 {hashlib.md5(BODY).hexdigest()}; expected md5 0000"
    ):
        fetch(server[0], tmp_path / "data.zip", checksum=wrong, patience=QUICK)
    assert not (tmp_path / "data.zip").exists()
    assert not (tmp_path / "data.zip.part").exists()


def test_unexpected_length_is_refused_at_once(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="the server offers 300000 bytes, expected 299999"):
        fetch(server[0], tmp_path / "data.zip", size=299_999, patience=QUICK)
    assert len(server[1].seen) == 1


def test_server_that_claims_more_than_it_sends(server: Server, tmp_path: Path) -> None:
    # Asked for the rest, it says that there is none.
    server[1].claim = 10
    assert fetch(server[0], tmp_path / "data.zip", patience=QUICK).read_bytes() == BODY
    assert server[1].seen == [None, "bytes=300000-"]


def test_claimed_length_is_held_against_the_known_one(server: Server, tmp_path: Path) -> None:
    server[1].claim = 10
    with pytest.raises(DatasetError, match="the server offers 300010 bytes, expected 300000"):
        fetch(server[0], tmp_path / "data.zip", size=300_000, patience=QUICK)


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"the transfer failed .*refused"):
        fetch("http://127.0.0.1:9/data.zip", tmp_path / "data.zip", patience=QUICK)


def test_only_http(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="expected http or https"):
        fetch("file:///etc/hostname", tmp_path / "data.zip")
