"""What the steps `evaluate` and `format` make of every kind of data set, from perfect results."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from detector.config import Config
from detector.engine import sample_pictures
from detector.engine.evaluate import split_dataset
from detector.errors import DatasetError
from detector.evaluation.results import from_mmdet
from detector.evaluation.submissions.check import check_submission
from detector.structures.samples import Detections
from tasks import evaluate, submit
from tasks.request import Request
from tasks.steps import Job
from tests.unit.engine.small_sets import SIZE, data_of, perfect, write

PROJECT = Path(__file__).resolve().parents[3]
DEFAULT = {"coco": "bbox", "lvis": "bbox", "voc": "mAP", "panoptic": "PQ"}


def config_of(folder: Path, kind: str, metric: Any) -> Config:
    write(kind, folder)
    section = data_of(kind, folder)
    data = {"data": {"val": section, "test": section}, "evaluation": {"interval": 1, "metric": metric}}
    return Config(name="c", path=folder / "c.py", data=data, origins={})


def results_of(kind: str, dataset: Any) -> dict[int | str, Detections]:
    return {i: from_mmdet(one) for i, one in zip(dataset.image_ids, perfect(kind), strict=True)}


@pytest.mark.parametrize(
    ("kind", "metric", "expected"),
    [
        ("coco", "bbox", {"bbox_mAP": 1, "segm_mAP": 1}),
        ("coco", ["segm", "proposal"], {"bbox_mAP": 1, "segm_mAP": 1, "AR@1000": 1}),
        ("lvis", "bbox", {"bbox_AP": 1, "segm_AP": 1, "bbox_APf": 1}),
        ("voc", "mAP", {"mAP": 1, "AP50": 1}),
        ("panoptic", "PQ", {"PQ": 100, "bbox_mAP": 1, "segm_mAP": 1}),
    ],
    ids=str,
)
def test_every_kind_is_measured_and_has_its_curves(
    tmp_path: Path, kind: str, metric: Any, expected: dict[str, float]
) -> None:
    config = config_of(tmp_path, kind, metric)
    dataset = split_dataset(config, "val")
    found = evaluate.measure(config, dataset, results_of(kind, dataset), tmp_path)
    assert {key: found.get(key) for key in expected} == expected
    rows = list(csv.DictReader((tmp_path / "pr.csv").open()))
    columns = ["bbox"] if kind == "voc" else ["bbox", "segm"]
    assert [{row[name] for row in rows} for name in columns] == [{"1.00000"}] * len(columns)
    assert len(rows) == 101


@pytest.mark.parametrize(("kind", "metric"), [("coco", "proposal_fast"), ("voc", "recall")])
def test_what_has_no_curve_leaves_the_columns_empty(tmp_path: Path, kind: str, metric: str) -> None:
    """A proposal model's config asks for recalls alone, and nothing else is measured then."""
    config = config_of(tmp_path, kind, metric)
    dataset = split_dataset(config, "val")
    found = evaluate.measure(config, dataset, results_of(kind, dataset), tmp_path)
    assert set(found.values()) == {1.0}
    assert (tmp_path / "pr.csv").read_text() == "recall,bbox,segm\n0.00,,\n1.00,,\n"


@pytest.mark.parametrize("kind", ["voc", "panoptic", "lvis"])
def test_every_kind_is_drawn(tmp_path: Path, kind: str) -> None:
    dataset = split_dataset(config_of(tmp_path, kind, DEFAULT[kind]), "val")
    for index in range(len(dataset)):
        path = tmp_path / dataset.img_prefix / dataset.image_info(index)["file_name"]
        cv2.imwrite(str(path), np.full((*SIZE, 3), 90, np.uint8))
    written = sample_pictures.draw_samples(dataset, results_of(kind, dataset), tmp_path / "samples", 8)
    assert [path.is_file() for path in written] == [True, True]


@pytest.fixture
def request_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(PROJECT / "configs")
    return Request("mask_rcnn", "sample")


def job(said: list[str]) -> Job:
    return Job(key="format-1", log=said.append)


@pytest.mark.parametrize(
    ("kind", "packed"),
    [
        ("coco", ["coco/{name}.bbox", "coco/{name}.segm"]),
        ("lvis", ["lvis/{name}.bbox", "lvis/{name}.segm"]),
        ("voc", ["voc/{name}"]),
    ],
)
def test_every_server_gets_a_checked_zip(
    tmp_path: Path, request_of: Request, kind: str, packed: list[str]
) -> None:
    dataset: Any = split_dataset(config_of(tmp_path, kind, DEFAULT[kind]))
    said: list[str] = []
    files = submit.write(job(said), request_of, dataset, results_of(kind, dataset), tmp_path / "out")
    zips = [path for path in files if path.suffix == ".zip"]
    expected = [f"{one.format(name=request_of.name)}.zip" for one in packed]
    assert [path.relative_to(tmp_path / "out").as_posix() for path in zips] == expected
    for path in zips:
        again = check_submission(path, annotations=dataset.ann_file, kind=kind, classes=dataset.class_names)
        assert again.fits, again.lines()
    assert sum(line.endswith(f"fits the {kind} server") for line in said) == len(zips)


def test_cityscapes_server_gets_its_zip_too(tmp_path: Path, request_of: Request) -> None:
    config = config_of(tmp_path, "coco", "bbox")
    images = tmp_path / "leftImg8bit/test"
    content = json.loads((tmp_path / "ann.json").read_text())
    for image in content["images"]:
        image["file_name"] = f"berlin/berlin_000000_00000{image['id']}_leftImg8bit.png"
    for category, name in zip(content["categories"], ("car", "bus"), strict=True):
        category["name"] = name
    (tmp_path / "ann.json").write_text(json.dumps(content))
    config.data["data"]["test"] |= {"img_prefix": str(images), "classes": ("car", "bus")}
    dataset: Any = split_dataset(config)
    files = submit.write(job([]), request_of, dataset, results_of("coco", dataset), tmp_path / "out")
    (zipped,) = [path for path in files if path.parent.name == "cityscapes"]
    assert check_submission(zipped, annotations=dataset.ann_file).fits
    config.data["data"]["test"]["classes"] = ("bus", "car")
    boxes = {
        i: Detections(one.boxes, one.scores, one.labels) for i, one in results_of("coco", dataset).items()
    }
    without = submit.write(job([]), request_of, split_dataset(config), boxes, tmp_path / "boxes")  # type: ignore[arg-type]
    assert [path.parent.name for path in without] == ["coco", "coco"]


def test_submission_that_a_server_would_refuse_is_an_error(tmp_path: Path, request_of: Request) -> None:
    dataset: Any = split_dataset(config_of(tmp_path, "coco", "bbox"))
    outside = Detections(
        boxes=torch.tensor([[0.0, 0.0, 500.0, 20.0]]),
        scores=torch.ones(1),
        labels=torch.zeros(1, dtype=torch.int64),
    )
    results: Any = {image_id: outside for image_id in dataset.image_ids}
    with pytest.raises(
        DatasetError, match=r"bbox\.json: the coco server would refuse .*leaves the image of 80 x 60"
    ):
        submit.write(job([]), request_of, dataset, results, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.zip"))


def test_results_without_any_detection_are_written_but_not_packed(
    tmp_path: Path, request_of: Request
) -> None:
    dataset: Any = split_dataset(config_of(tmp_path, "coco", "bbox"))
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    said: list[str] = []
    files = submit.write(
        job(said), request_of, dataset, dict.fromkeys(dataset.image_ids, nothing), tmp_path / "out"
    )
    assert [path.name for path in files] == [f"{request_of.name}.bbox.json"]
    assert "found nothing on 2 images" in said[0]


@pytest.mark.parametrize(
    ("config", "dataset", "expected"),
    [
        ("mask_rcnn", "sample", []),
        ("mask_rcnn", "coco", ["image_info_test-dev2017.json", "test2017"]),
        ("mask_rcnn", "lvis", ["lvis_v1_image_info_test_dev.json", "lvis_v1"]),
        ("mask_rcnn", "lvis_v0.5", ["lvis_v0.5_image_info_test.json", "test2017"]),
        ("faster_rcnn", "voc", []),
        ("mask_rcnn", "cityscapes", []),
    ],
)
def test_the_split_that_the_server_judges(
    request_of: Request, config: str, dataset: str, expected: list[str]
) -> None:
    found = submit.test_split(Request(config, dataset))
    assert [Path(path).name for path in found.values()] == expected


def test_a_list_of_test_sets_is_taken_as_it_is(tmp_path: Path, request_of: Request) -> None:
    base = "mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py"
    test = "[dict(type='CocoDataset', ann_file='data/coco/a.json')]"
    (tmp_path / "own.py").write_text(f"_base_ = ['configs/{base}']\ndata = dict(test={test})\n")
    request = Request("own.py")
    assert request.data is not None
    assert request.data.dataset == "coco"
    assert submit.test_split(request) == {}
