"""The index of published models and ``detector zoo``."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from detector.checkpoint import weights
from detector.cli import main
from detector.errors import ConfigError
from detector.fetch import Patience
from detector.layers.conv import make_conv
from detector.layers.norm import make_norm
from detector.models.catalog import CATALOG
from detector.structures.specs import ConvSpec, NormSpec, PredictorSpec, RoILayerSpec
from detector.zoo import index
from detector.zoo.index import BROKEN, BUILT_INSIDE, catalog_names, find_model, models, select

BODY = b"weights" * 1000
DIGITS = hashlib.sha256(BODY).hexdigest()[:8]


def test_every_published_model_is_there_once() -> None:
    found = models()
    assert len(found) == 544
    assert len({model.weights for model in found.values()}) == 544
    assert len({model.family for model in found.values()}) == 86
    for model in found.values():
        assert re.fullmatch(rf"{re.escape(model.family)}/[^/]+\.py", model.config)
        assert model.weights.startswith("https://download.openmmlab.com/mmdetection/v2.0/")
        assert model.blocks
        assert model.metrics
        assert all(0 < value < 100 for value in model.metrics.values())


def test_digits_are_those_of_the_file_names() -> None:
    without = [model.name for model in models().values() if model.sha is None]
    assert without == ["mask_rcnn_r50_fpn_15e_deepfashion"]
    for model in models().values():
        if model.sha is not None:
            assert re.fullmatch(r"[0-9a-f]{8}", model.sha)
            assert model.file_name.endswith(f"-{model.sha}.pth")


def test_a_well_known_entry() -> None:
    model = find_model("mask_rcnn_r50_fpn_1x_coco")
    assert (model.family, model.dataset, model.sha) == ("mask_rcnn", "COCO", "d4b0c5d6")
    assert model.metrics == {"box AP": 38.2, "mask AP": 34.7}
    assert model.parameters == 44_396_336
    assert find_model("configs/mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py") is model
    assert all(find_model(model.config) is model for model in models().values())


def test_names_of_the_catalog_are_read_without_importing_it() -> None:
    assert catalog_names() == frozenset(CATALOG)


def test_support_follows_from_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = find_model("faster_rcnn_r50_fpn_1x_coco")
    assert model.supported
    assert replace(model, blocks=(*model.blocks, "Unheard")).lacking == ("Unheard",)
    monkeypatch.setattr(index, "catalog_names", lambda: frozenset(CATALOG) - {"FPN"})
    assert model.lacking == ("FPN",)


def test_exceptions_are_entries_and_needed() -> None:
    used = {block for model in models().values() for block in model.blocks}
    assert used >= BUILT_INSIDE
    configs = {model.config for model in models().values()}
    assert set(BROKEN) <= configs


@pytest.mark.parametrize("kind", ["ConvWS", "ConvAWS", "DCN", "DCNv2", "SAC"])
def test_convolutions_of_the_exceptions_are_built(kind: str) -> None:
    with torch.device("meta"):
        assert make_conv(ConvSpec(type=kind), 8, 8, 3, bias=False).weight.shape == (8, 8, 3, 3)


def test_norms_predictors_and_poolings_of_the_exceptions_are_known() -> None:
    for kind in ("SyncBN", "MMSyncBN"):
        make_norm(NormSpec(type=kind), 4)
    for kind in ("NormedLinear", "NormedConv2d"):
        PredictorSpec(type=kind)
    for kind in ("RoIAlign", "SimpleRoIAlign"):
        RoILayerSpec(type=kind)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("mask_rcnn_r50_fpn_1x_cocco", "mask_rcnn_r50_fpn_1x_coco"),
        ("Faster_RCNN_r50_fpn_1x", "faster_rcnn_r50"),
    ],
)
def test_an_unknown_name_names_its_neighbours(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"found no model '{name}'.*Did you mean .*{near}"):
        find_model(name)


def test_an_unknown_family_names_its_neighbours() -> None:
    with pytest.raises(ConfigError, match=r"found no family 'faster-rcnn'.*Did you mean faster_rcnn"):
        select(family="faster-rcnn")
    with pytest.raises(ConfigError, match="Use one of albu_example, "):
        select(family="??")


def test_the_list_is_aligned_and_filtered(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "list", "--family", "mask_rcnn"]) == 0
    printed = capsys.readouterr()
    head, *rows = printed.out.splitlines()
    assert head.split() == ["name", "family", "box", "AP", "mask", "AP", "supported"]
    assert len(rows) == 21
    assert {row.index("mask_rcnn  ") for row in rows} == {head.index("family")}
    assert [row.split() for row in rows if row.startswith("mask_rcnn_r50_fpn_1x_coco ")] == [
        ["mask_rcnn_r50_fpn_1x_coco", "mask_rcnn", "38.2", "34.7", "yes"]
    ]
    assert printed.err.startswith("21 models, ")


def test_other_metrics_have_columns_where_needed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["zoo", "list", "--family", "rpn"])
    assert "AR@1000" in capsys.readouterr().out.splitlines()[0]


def test_the_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["zoo", "list", "--json", "--supported", "--family", "faster_rcnn"])
    found = json.loads(capsys.readouterr().out)
    assert {entry["supported"] for entry in found} == {True}
    assert "faster_rcnn_r50_fpn_1x_coco" in [entry["name"] for entry in found]
    assert "config" in found[0]
    assert "weights" in found[0]


@pytest.mark.parametrize(
    "arguments", [["list", "--family", "nowhere"], ["download", "mask_rcn"]], ids=["family", "name"]
)
def test_mistakes_are_one_paragraph(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", *arguments]) == 1
    assert capsys.readouterr().err.startswith("detector zoo: zoo: found no ")


def test_the_list_needs_no_torch() -> None:
    code = (
        "import sys; from detector.cli import main; main(['zoo', 'list']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "faster_rcnn_r50_fpn_1x_coco" in done.stdout


class Handler(BaseHTTPRequestHandler):
    cut: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if start else 200)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(BODY) - start))
        self.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
        self.end_headers()
        self.wfile.write(BODY[start : start + (self.cut.pop() if self.cut else len(BODY))])

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The address of a server that stands for the publisher's; its first answer is cut."""
    monkeypatch.setenv("DETECTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("DETECTOR_OFFLINE", raising=False)
    monkeypatch.setattr(weights, "PATIENCE", Patience(attempts=2, wait_s=0.001, timeout_s=5))
    handler = type("ZooHandler", (Handler,), {"cut": [2000]})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


@pytest.mark.parametrize("where", ["cache", "folder"])
def test_download_resumes_checks_and_prints_the_path(
    served: str,
    where: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "mask_rcnn_r50_fpn_1x_coco"
    model = replace(find_model(name), weights=f"{served}/v2.0/{name}_20200205-{DIGITS}.pth", sha=DIGITS)
    monkeypatch.setattr(index, "models", lambda: {name: model})
    folder = tmp_path / ("cache/weights" if where == "cache" else "out")
    options = ["--out-dir", str(folder)] if where == "folder" else []
    assert main(["zoo", "download", name, *options]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == folder / f"{name}_20200205-{DIGITS}.pth"
    assert path.read_bytes() == BODY
