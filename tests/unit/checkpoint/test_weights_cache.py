"""Weights by name, against a server on this machine that has the real names and sometimes cuts or lies."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from detector.checkpoint import weights
from detector.checkpoint.weights import (
    fetch_weights,
    named_checksum,
    offline,
    place_of,
    resolve_weights,
    weights_url,
)
from detector.errors import CheckpointError
from detector.fetch import Patience

BODY = random.Random(3).randbytes(200_000)
SHA = hashlib.sha256(BODY).hexdigest()
NAME = f"resnet50_msra-{SHA[:8]}.pth"
QUICK = Patience(attempts=2, wait_s=0.001, timeout_s=2)


@dataclass
class Behaviour:
    """What the server does; one entry of ``cuts`` per request, then normal."""

    body: bytes = BODY
    cuts: list[int] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    missing: bool = False


class Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour

    def do_GET(self) -> None:
        b = self.behaviour
        wanted = self.headers.get("Range")
        b.asked.append((self.path, wanted))
        if b.missing:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if start else 200)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(b.body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(b.body) - 1}/{len(b.body)}")
        self.end_headers()
        end = start + b.cuts.pop(0) if b.cuts else len(b.body)
        self.wfile.write(b.body[start:end])

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def server() -> Iterator[tuple[str, Behaviour]]:
    behaviour = Behaviour()
    handler = type("WeightsHandler", (Handler,), {"behaviour": behaviour})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", behaviour
    httpd.shutdown()
    httpd.server_close()


Server = tuple[str, Behaviour]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, torch hub's folder beside it, and little patience."""
    monkeypatch.setenv("DETECTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("DETECTOR_OFFLINE", raising=False)
    monkeypatch.setattr(weights, "PATIENCE", QUICK)
    return tmp_path / "cache" / "weights"


def serve_names(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Every name of every scheme leads to the local server."""
    monkeypatch.setattr(weights, "_names", lambda scheme: {"detectron2/resnet50_caffe": f"{address}/{NAME}"})


@pytest.mark.parametrize(
    ("uri", "ending"),
    [
        ("torchvision://resnet50", "/models/resnet50-0676ba61.pth"),
        ("modelzoo://resnet101", "/models/resnet101-63fe2227.pth"),
        ("torchvision://resnet50.imagenet1k_v2", "/models/resnet50-11ad3fa6.pth"),
        ("open-mmlab://detectron2/resnet50_caffe", "/resnet50_msra-5891d200.pth"),
        ("open-mmlab://resnet50_caffe", "/resnet50_caffe-788b5fa3.pth"),
        ("mmcls://mobilenet_v2", "/mobilenet_v2_batch256_imagenet_20200708-3b2dc3af.pth"),
        ("https://host/x/y.pth?key=1", "https://host/x/y.pth?key=1"),
    ],
)
def test_addresses_of_names(uri: str, ending: str) -> None:
    assert (weights_url(uri) or "").endswith(ending)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("torchvision://resnet500", "no model 'resnet500'. Did you mean torchvision://resnet50?"),
        ("torchvision://resnet50.imagenet1k_v9", "no model"),
        ("open-mmlab://detectron2/resnet50_cafe", "Did you mean open-mmlab://detectron2/resnet50_caffe?"),
        ("mmcls://qqqqq", "It has"),
        ("s3://bucket/x.pth", "unknown scheme s3://; expected a path, http"),
    ],
)
def test_unknown_names_and_schemes(uri: str, said: str) -> None:
    with pytest.raises(CheckpointError) as error:
        resolve_weights(uri)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("name", "digits"),
    [
        ("resnet50-0676ba61.pth", "0676ba61"),
        ("faster_rcnn_bbox_mAP-0.398_20200504_163323-30042637.pth", "30042637"),
        ("swav-0676ba61.pth.tar", "0676ba61"),
        ("mask_rcnn_r50_fpn_15e_deepfashion_20200329_192752.pth", None),
        ("my_model-20200329.pth", None),
        ("swin_tiny_patch4_window7_224.pth", None),
        ("x-abc.pth", None),
    ],
)
def test_digest_in_a_name(name: str, digits: str | None) -> None:
    assert named_checksum(name) == (f"sha256:{digits}" if digits else None)


def test_a_name_is_fetched_once_and_found_again(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_names(monkeypatch, server[0])
    seen: list[tuple[str, int, int]] = []
    uri = "open-mmlab://detectron2/resnet50_caffe"

    for _ in range(2):
        path = resolve_weights(
            uri, progress=lambda name: lambda done, total: seen.append((name, done, total))
        )
    assert path == cache / NAME
    assert path.read_bytes() == BODY
    assert seen[-1] == (NAME, 200_000, 200_000)
    assert server[1].asked == [(f"/{NAME}", None)]


def test_a_cut_connection_is_resumed_by_a_later_call(server: Server, cache: Path) -> None:
    server[1].cuts = [70_000, 0, 0, 0]
    with pytest.raises(CheckpointError, match=f"needs the file {NAME}.*ended after 70000 of 200000 bytes"):
        resolve_weights(f"{server[0]}/{NAME}")
    assert not (cache / NAME).exists()
    server[1].cuts = []
    assert resolve_weights(f"{server[0]}/{NAME}").read_bytes() == BODY
    assert server[1].asked[-1][1] == "bytes=70000-"


def test_wrong_bytes_never_reach_the_cache(server: Server, cache: Path) -> None:
    server[1].body = b"an error page"
    with pytest.raises(CheckpointError, match=f"came with sha256 .*expected sha256 {SHA[:8]}"):
        resolve_weights(f"{server[0]}/{NAME}")
    assert not (cache / NAME).exists()


def test_a_missing_file_of_a_server(server: Server) -> None:
    server[1].missing = True
    with pytest.raises(CheckpointError, match="answered 404"):
        resolve_weights(f"{server[0]}/{NAME}")


def test_no_network_names_the_file_and_its_place(cache: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        resolve_weights(f"http://127.0.0.1:9/{NAME}")
    text = str(error.value)
    assert f"needs the file {NAME}, which is not in {cache} or " in text
    assert "the transfer failed" in text
    assert f"to {cache / NAME}" in text


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_asks_no_server(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "environment":
        monkeypatch.setenv("DETECTOR_OFFLINE", "1")
        assert offline()
    with pytest.raises(CheckpointError) as error:
        resolve_weights(f"{server[0]}/{NAME}", download=how == "environment")
    assert f"{server[0]}/{NAME}" in str(error.value)
    assert str(cache / NAME) in str(error.value)
    assert server[1].asked == []


@pytest.mark.parametrize("folder", ["cache/weights", "torch/hub/checkpoints"])
def test_files_that_are_here(tmp_path: Path, folder: str) -> None:
    placed = tmp_path / folder / NAME
    placed.parent.mkdir(parents=True)
    placed.write_bytes(BODY)
    assert resolve_weights(f"http://127.0.0.1:9/{NAME}") == placed
    assert resolve_weights(str(placed)) == placed
    assert resolve_weights(NAME) == placed


def test_a_damaged_file_here_does_not_count(server: Server, cache: Path, tmp_path: Path) -> None:
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (hub / NAME).write_bytes(BODY[:-1])
    with pytest.raises(CheckpointError, match=rf"{hub / NAME} has sha256 .*expected {SHA[:8]}"):
        resolve_weights(f"{server[0]}/{NAME}", download=False)
    assert resolve_weights(f"{server[0]}/{NAME}") == cache / NAME


def test_names_without_a_digest_do_not_mix(server: Server, cache: Path) -> None:
    first = resolve_weights(f"{server[0]}/a/epoch_12.pth")
    server[1].body = b"another model"
    second = resolve_weights(f"{server[0]}/b/epoch_12.pth?token=1")
    assert first.read_bytes() == BODY
    assert second.read_bytes() == b"another model"
    assert cache in first.parents
    assert place_of("https://h/../../etc/x.pth") == cache / "h" / "etc" / "x.pth"


def _fetch(url: str, target: str) -> None:
    fetch_weights(url, Path(target))


def test_eight_processes_fetch_once(server: Server, cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    arguments = (f"{server[0]}/{NAME}", str(cache / NAME))
    workers = [context.Process(target=_fetch, args=arguments) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    assert [worker.exitcode for worker in workers] == [0] * 8
    assert len(server[1].asked) == 1
    assert (cache / NAME).read_bytes() == BODY
