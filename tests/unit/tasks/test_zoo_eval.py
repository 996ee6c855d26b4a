"""Published models, measured: which are meant, the comparison, and one from its server to its verdict."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from detector.build import build_model
from detector.config import load_config
from detector.data.synthetic import Recipe, write_coco
from detector.errors import CheckpointError, ConfigError, DatasetError, DetectorError
from detector.zoo import index
from detector.zoo.index import find_model
from flows import zoo_eval as flow
from tasks import prefect_sweep, zoo_eval
from tasks.registry import STEPS, request_for
from tasks.request import Request
from tasks.zoo_eval import ZooRequest

PROJECT = Path(__file__).resolve().parents[3]
CLASSES = ("person", "bicycle", "car", "motorcycle", "bus", "train", "truck")
CONFIG = """
_base_ = [{base!r}]
heads = dict(bbox_head=dict(num_classes=7), mask_head=dict(num_classes=7))
model = dict(backbone=dict(init_cfg=None), roi_head=heads,
             test_cfg=dict(rpn=dict(nms_pre=20, max_per_img=5)))
classes = {classes!r}
part = dict(type='CocoDataset', classes=classes, ann_file='data/toy/annotations/instances_val2017.json',
            img_prefix='data/toy/val2017')
data = dict(workers_per_gpu=0, train=part, val=part, test=part)
"""
ENTRY: dict[str, Any] = {
    "family": "toy", "config": "toy/toy_r18.py", "parameters": 1, "dataset": "COCO",
    "metrics": {"box AP": 0.2, "mask AP": 0.0}, "blocks": ["MaskRCNN"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["mask_rcnn_r50_fpn_1x_coco"], ["mask_rcnn_r50_fpn_1x_coco"]),
        (["ssd*_voc0712"], ["ssd300_voc0712", "ssd512_voc0712"]),
        (["ssd300_voc0712", "ssd?00_voc*"], ["ssd300_voc0712"]),
        (["htc/htc_r50_fpn_1x_coco.py"], ["htc_r50_fpn_1x_coco"]),
    ],
    ids=["name", "pattern", "twice", "path"],
)
def test_models_that_names_mean(names: list[str], expected: list[str]) -> None:
    assert [model.name for model in zoo_eval.chosen(names)] == expected


def test_family_gives_all_its_models_that_run_here() -> None:
    found = zoo_eval.chosen(["yolox"])
    assert {model.family for model in found} == {"yolox"}
    assert [model.name for model in found] == [m.name for m in index.select(family="yolox", supported=True)]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mask_rccn_r50_fpn_1x_coco", "Did you mean mask_rcnn_r50_fpn_1x_coco"),
        ("nothing_*", r"no model for 'nothing_\*'; expected a published name, a pattern"),
    ],
)
def test_name_of_nothing_is_told(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        zoo_eval.chosen([name])


def test_model_that_does_not_run_here_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = index.ZooModel(**{**ENTRY, "name": "new", "weights": "x", "sha": None, "blocks": ("NewHead",)})
    monkeypatch.setattr(zoo_eval, "models", lambda: {"new": unknown})
    with pytest.raises(ConfigError, match="'ne\\*' does not run here: it needs NewHead"):
        zoo_eval.chosen(["ne*"])


@pytest.mark.parametrize(
    ("reported", "metrics", "tolerance", "expected"),
    [
        ({"box AP": 38.2}, {"bbox_mAP": 0.38249}, 0.1, (38.25, 0.0, "equal (within 0.1)", True)),
        ({"box AP": 38.2}, {"bbox_mAP": 0.3834}, 0.1, (38.34, 0.1, "equal (within 0.1)", True)),
        ({"box AP": 38.2}, {"bbox_mAP": 0.375}, 0.1, (37.5, -0.7, "close (within 1.0)", False)),
        ({"box AP": 38.2}, {"bbox_mAP": 0.375}, 0.7, (37.5, -0.7, "close (within 1.0)", True)),
        ({"mask AP": 30.0}, {"segm_AP": 0.2}, 0.1, (20.0, -10.0, "differs", False)),
        ({"box AP": 77.3}, {"mAP": 0.773}, 0.0, (77.3, 0.0, "equal (within 0.1)", True)),
        ({"PQ": 40.2}, {"PQ": 40.21}, 0.1, (40.21, 0.0, "equal (within 0.1)", True)),
        ({"AR@1000": 58.2}, {"AR@1000": 0.582}, 0.1, (58.2, 0.0, "equal (within 0.1)", True)),
        ({"mask AP": 30.0}, {"bbox_mAP": 0.2}, 9.9, (None, None, "not measured", False)),
    ],
)  # fmt: skip
def test_reported_beside_measured(
    reported: dict[str, float], metrics: dict[str, float], tolerance: float, expected: tuple[Any, ...]
) -> None:
    model = index.ZooModel(**{**ENTRY, "name": "a", "weights": "x", "sha": None, "metrics": reported})
    (row,) = zoo_eval.compare(model, metrics, tolerance)
    found = (row["measured"], row["difference"], row["verdict"], row["passes"])
    assert (row["name"], row["metric"]) == ("a", next(iter(reported)))
    assert found == (pytest.approx(expected[0]), pytest.approx(expected[1]), *expected[2:])


class Quiet(SimpleHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A server with one checkpoint as MMDetection published them: config text and classes in its meta."""
    folder = tmp_path_factory.mktemp("published")
    base = PROJECT / "configs/mask_rcnn/mask_rcnn_r18_fpn_sample.py"
    source = folder / "toy_r18.py"
    source.write_text(CONFIG.format(base=str(base), classes=CLASSES))
    config = load_config(source)
    torch.manual_seed(0)
    model = build_model(config.data["model"], training=False)
    meta = {"config": config.text(), "CLASSES": CLASSES}
    torch.save({"meta": meta, "state_dict": model.state_dict()}, folder / "toy.pth")
    sha = hashlib.sha256((folder / "toy.pth").read_bytes()).hexdigest()[:8]
    name = f"toy_r18-{sha}.pth"
    (folder / "toy.pth").rename(folder / name)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}/{name}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def zoo(tmp_path: Path, published: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project folder with a tiny data set, and an index of two models with the same weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTOR_CACHE", str(tmp_path / ".cache"))
    monkeypatch.delenv("DETECTOR_OFFLINE", raising=False)
    write_coco(tmp_path / "data/toy", recipe=Recipe(seed=1, train=1, val=2, test=1, height=64, width=96))
    entries = [
        {**ENTRY, "name": "toy_r18", "weights": published[1], "sha": published[1][-12:-4]},
        {**ENTRY, "name": "toy_good", "weights": published[1], "sha": None, "metrics": {"box AP": 55.5}},
    ]
    (tmp_path / "index.json").write_text(json.dumps(entries))
    monkeypatch.setattr(index, "INDEX", tmp_path / "index.json")
    index.models.cache_clear()
    Quiet.asked.clear()
    yield tmp_path
    index.models.cache_clear()


def test_request_of_the_command_line_names_a_model() -> None:
    found = request_for("zoo_eval", Request("ssd300_voc0712", device="cpu"))
    assert isinstance(found, ZooRequest)
    assert (found.name, found.device) == ("ssd300_voc0712", "cpu")
    assert found.run_dir == Path("runs/zoo/ssd300_voc0712")


def test_offline_names_the_file_and_its_place(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTOR_OFFLINE", "1")
    file = find_model("toy_r18").file_name
    with pytest.raises(
        CheckpointError, match=rf"needs the file {file}.*place it at {zoo}/.cache/weights/{file}"
    ):
        STEPS["zoo_eval"].key(ZooRequest("toy_r18"))


def test_data_that_is_not_there_is_told(zoo: Path) -> None:
    (zoo / "data/toy/annotations/instances_val2017.json").unlink()
    with pytest.raises(
        DatasetError, match=r"instances_val2017\.json does not exist, but the config reads it"
    ):
        STEPS["zoo_eval"].key(ZooRequest("toy_r18"))


@pytest.mark.slow
def test_published_model_from_its_server_to_its_verdict(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole flow but for Prefect: weights and config fetched once, tested, compared, cached."""
    said: list[str] = []

    def step(name: str, member: Any, refresh: Any, stopping: Any) -> dict[str, Any]:
        if name in (refresh or ()):
            STEPS[name].forget(member.request)
        return {"step": name, "value": STEPS[name].ensure(member.request, log=said.append).value}

    monkeypatch.setattr(prefect_sweep, "_step", step)
    monkeypatch.setattr(flow, "get_run_logger", lambda: logging.getLogger("here"))
    monkeypatch.setattr(flow.prefect_artifacts, "compare", lambda *arguments: None)
    monkeypatch.setattr(flow.devices, "capacity", lambda device: 1)
    rows = flow.evaluate_zoo.fn(["toy_r18"], tolerance=5.0, device="cpu")
    assert [(row["metric"], row["reported"], row["passes"]) for row in rows] == [
        ("box AP", 0.2, True), ("mask AP", 0.0, True),
    ]  # fmt: skip
    assert Quiet.asked == [f"/{find_model('toy_r18').file_name}"]
    saved = json.loads((zoo / "runs/zoo/toy_r18/metrics.json").read_text())
    assert saved["bbox_mAP"] * 100 == pytest.approx(rows[0]["measured"], abs=0.01)
    assert saved["lineage"][0]["checkpoint"]["path"].endswith(find_model("toy_r18").file_name)
    assert "| toy_r18 | box AP | 0.2000 |" in (zoo / "runs/zoo/comparison.md").read_text()

    said.clear()
    with pytest.raises(DetectorError, match=r"1 of 2 models are not within 5.0 AP .*: toy_good; runs/zoo"):
        flow.evaluate_zoo.fn(["toy"], tolerance=5.0, device="cpu")
    assert sum("up to date" in line for line in said) == 1  # toy_r18 of before
    assert len(Quiet.asked) == 1
    assert "| toy_good | box AP | 55.5000 |" in (zoo / "runs/zoo/comparison.md").read_text()
    said.clear()
    flow.evaluate_zoo.fn(["toy_good"], tolerance=60.0, device="cpu", refresh=True)
    assert said[0].startswith("zoo_eval: running")
