"""Class checks, thresholds, result files and metrics of given results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from detector.config import Config
from detector.engine.evaluate import check_classes, run_inference, split_dataset, with_score_threshold
from detector.engine.measures import ground_truth_dir
from detector.engine.scoring import evaluate_results, format_results, read_results, write_results
from detector.errors import CheckpointError, ConfigError
from detector.evaluation.results import save_results, to_mmdet
from detector.models.detectors.base import Detector
from detector.structures.samples import Batch, Detections, ImageMeta


@pytest.mark.parametrize(
    ("trained", "wanted", "fits"),
    [
        (("a", "b"), ("a", "b"), True),
        (None, ("a", "b"), True),
        (("a", "x"), ("a", "b"), True),
        (("b", "a"), ("a", "b"), False),
        (("a", "b", "c"), ("a", "b"), False),
        ("a", ("a",), True),
    ],
)
def test_classes_map_by_name(trained: Any, wanted: tuple[str, ...], fits: bool) -> None:
    if fits:
        check_classes(trained, wanted, where="f.pth")
        return
    with pytest.raises(CheckpointError, match=r"f\.pth: trained for"):
        check_classes(trained, wanted, where="f.pth")


def test_score_threshold_replaces_only_what_lies_in_test_cfg() -> None:
    model = {"rpn": {"score_thr": 0.9}, "test_cfg": {"rcnn": {"score_thr": 0.05, "nms": {"type": "nms"}}}}
    changed = with_score_threshold(model, 0.3)
    assert changed == {
        "rpn": {"score_thr": 0.9},
        "test_cfg": {"rcnn": {"score_thr": 0.3, "nms": {"type": "nms"}}},
    }
    assert model["test_cfg"]["rcnn"]["score_thr"] == 0.05  # type: ignore[index]
    assert with_score_threshold(model, None) == model


@pytest.mark.parametrize(
    ("images", "expected"),
    [("data/sample/leftImg8bit/val", "data/sample/gtFine/val"), ("/d/leftImg8bit", "/d/gtFine")],
)
def test_cityscapes_ground_truth_lies_beside_the_images(images: str, expected: str) -> None:
    assert ground_truth_dir(Path(images)) == Path(expected)
    assert ground_truth_dir(Path(images), "elsewhere") == Path("elsewhere")


def test_ground_truth_elsewhere_must_be_given() -> None:
    with pytest.raises(ConfigError, match="gt_dir"):
        ground_truth_dir(Path("data/images"))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Two images, one object each, of classes whose file order is not the config's."""
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 100, "width": 100} for i in (4, 9)],
        "categories": [{"id": 3, "name": "b"}, {"id": 7, "name": "a"}],
        "annotations": [
            {"id": 1, "image_id": 4, "category_id": 7, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0},
            {"id": 2, "image_id": 9, "category_id": 3, "bbox": [20, 20, 50, 50], "area": 2500, "iscrowd": 0},
        ],
    }
    (tmp_path / "val.json").write_text(json.dumps(content))
    dataset = {
        "type": "CocoDataset",
        "classes": ["a", "b"],
        "ann_file": str(tmp_path / "val.json"),
        "img_prefix": str(tmp_path),
        "pipeline": [{"type": "LoadImageFromFile"}],
    }
    data = {
        "data": {"val": dataset, "test": [dataset, dataset]},
        "evaluation": {"interval": 1, "metric": "bbox"},
    }
    return Config(name="c", path=tmp_path / "c.py", data=data, origins={})


def found(box: list[float], label: int) -> Detections:
    return Detections(boxes=torch.tensor([box]), scores=torch.tensor([0.9]), labels=torch.tensor([label]))


RESULTS = {4: found([10, 10, 50, 50], 0), 9: found([20, 20, 70, 70], 1)}


def test_perfect_results_score_one_also_from_a_file(config: Config, tmp_path: Path) -> None:
    dataset = split_dataset(config, "val")
    metrics = evaluate_results(config, dataset, RESULTS)
    assert metrics["bbox_mAP"] == 1.0
    write_results(tmp_path / "r.pkl", dataset, RESULTS)
    assert evaluate_results(config, dataset, read_results(tmp_path / "r.pkl", dataset)) == metrics


def test_options_override_the_config(config: Config) -> None:
    dataset = split_dataset(config, "val")
    options = {"classwise": True, "metric_items": ["mAP_50"]}
    metrics = evaluate_results(config, dataset, RESULTS, metrics=["bbox"], options=options)
    assert metrics["bbox_mAP_50"] == 1.0
    assert "bbox_mAP" not in metrics


@pytest.mark.parametrize(
    ("metrics", "options", "named"),
    [(["bbbox"], {}, "'bbox'"), (["bbox"], {"class_wise": True}, "'classwise'")],
)
def test_mistakes_are_named(config: Config, metrics: list[str], options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        evaluate_results(config, split_dataset(config, "val"), RESULTS, metrics=metrics, options=options)


def test_results_of_another_split_are_refused(config: Config, tmp_path: Path) -> None:
    dataset = split_dataset(config, "val")
    save_results(tmp_path / "r.pkl", [to_mmdet(RESULTS[4], 2)])
    with pytest.raises(ConfigError, match="1 images; expected 2"):
        read_results(tmp_path / "r.pkl", dataset)


def test_formatting_needs_a_place(config: Config, tmp_path: Path) -> None:
    dataset = split_dataset(config, "val")
    with pytest.raises(ConfigError, match="jsonfile_prefix"):
        format_results(config, dataset, RESULTS)
    paths = format_results(config, dataset, RESULTS, options={"jsonfile_prefix": str(tmp_path / "x")})
    assert [record["category_id"] for record in json.loads(paths[0].read_text())] == [7, 3]


def test_a_split_must_be_there(config: Config) -> None:
    with pytest.raises(ConfigError, match=r"data\.train"):
        split_dataset(config, "train")


@pytest.mark.parametrize("wrapper", [{"type": "RepeatDataset", "times": 2}, {"type": "ClassBalancedDataset"}])
def test_a_split_that_repeats_images_is_for_training(config: Config, wrapper: dict[str, Any]) -> None:
    config.data["data"]["test"] = {"oversample_thr": 0.1, **wrapper, "dataset": config.data["data"]["val"]}
    if wrapper["type"] == "RepeatDataset":
        del config.data["data"]["test"]["oversample_thr"]
    with pytest.raises(ConfigError, match=rf"data\.test: found a {wrapper['type']}; .* for data\.train"):
        split_dataset(config)


def test_several_views_are_refused_by_a_model_that_cannot_merge_them() -> None:
    batch = Batch(images=torch.zeros(1, 3, 4, 4), metas=[ImageMeta((4, 4), (4, 4), (4, 4))])
    with pytest.raises(ConfigError, match=r"2 views.*not defined for Detector"):
        run_inference(Detector(), [[batch, batch]], torch.device("cpu"))
