"""The Cityscapes configs start from the published COCO models, here from a server on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from detector.build import build_model
from detector.config import load_config, parse_options
from detector.engine.initial_weights import load_weights

ROOT = Path(__file__).resolve().parents[3]
#: the configs as they are, but for a backbone that is quickly made
SMALL = [
    "model.backbone.depth=18",
    "model.neck.in_channels=[64,128,256,512]",
    "model.roi_head.bbox_head.fc_out_channels=64",
]
OUTPUTS = {
    "faster_rcnn": {"bbox_head.fc_cls": (81, 9), "bbox_head.fc_reg": (320, 32)},
    "mask_rcnn": {
        "bbox_head.fc_cls": (81, 9),
        "bbox_head.fc_reg": (320, 32),
        "mask_head.conv_logits": (80, 8),
    },
}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder, and its address; the cache is another, empty one."""
    monkeypatch.setenv("DETECTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("DETECTOR_OFFLINE", raising=False)
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def built(config: str, options: list[str]) -> tuple[Any, dict[str, Any]]:
    cfg = load_config(str(ROOT / "configs" / config), parse_options(options)).data
    model = build_model(
        cfg["model"], training=True, train_cfg=cfg.get("train_cfg"), test_cfg=cfg.get("test_cfg")
    )
    return model, cfg


def published(folder: Path, family: str) -> tuple[str, dict[str, torch.Tensor]]:
    """A file of the COCO model as the publisher makes it: named by its digest."""
    model, _ = built(f"{family}/{family}_r50_fpn_1x_coco.py", SMALL)
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -1, 1)
    state = model.state_dict()
    made = folder / "made.pth"
    torch.save({"meta": {}, "state_dict": state}, made, _use_new_zipfile_serialization=False)
    digest = hashlib.sha256(made.read_bytes()).hexdigest()[:8]
    return made.rename(folder / f"{family}_r50_fpn_1x_coco_20200205-{digest}.pth").name, state


@pytest.mark.parametrize("family", ["faster_rcnn", "mask_rcnn"])
def test_cityscapes_starts_from_the_coco_model(served: tuple[Path, str], tmp_path: Path, family: str) -> None:
    folder, address = served
    name, coco = published(folder, family)
    options = [*SMALL, f"load_from={address}/{name}"]
    model, cfg = built(f"cityscapes/{family}_r50_fpn_1x_cityscapes.py", options)
    model.init_weights()
    first = {key: value.clone() for key, value in model.state_dict().items()}

    lines = load_weights(model, cfg["model"], load_from=cfg["load_from"])

    assert (tmp_path / "cache" / "weights" / name).is_file()
    heads = {f"roi_head.{layer}.{part}" for layer in OUTPUTS[family] for part in ("weight", "bias")}
    own = model.state_dict()
    for key, value in own.items():
        assert torch.equal(value, first[key] if key in heads else coco[key]), key
    assert f"{len(own) - len(heads)} matched, {len(heads)} of another shape" in lines[0]
    for layer, (found, wanted) in OUTPUTS[family].items():
        assert f"roi_head.{layer}.bias ([{found}] in the file, [{wanted}] here)" in lines[1]
    assert len(lines) == 2


@pytest.mark.parametrize("family", ["faster_rcnn", "mask_rcnn"])
def test_the_address_in_the_config_is_the_published_one(family: str) -> None:
    from detector.zoo.index import find_model

    cfg = load_config(str(ROOT / "configs" / "cityscapes" / f"{family}_r50_fpn_1x_cityscapes.py")).data
    assert cfg["load_from"] == find_model(f"{family}_r50_fpn_1x_coco").weights
