"""Several data sets tested at once: their numbers, files and pictures are those of each, or of all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from detector import cli
from detector.config import Config
from detector.engine.evaluate import split_dataset
from detector.engine.joined_split import JoinedSplit
from detector.engine.metric_sets import metric_set, require_truth
from detector.engine.scoring import (
    check_evaluation,
    evaluate_results,
    format_results,
    measure_fitting,
    read_results,
    write_results,
)
from detector.errors import ConfigError, DatasetError
from detector.evaluation.results import from_mmdet
from detector.evaluation.submissions.check import check_submission
from detector.inference import drawing_paths
from detector.structures.samples import Detections
from tests.unit.engine.small_sets import CLASSES, SIZE, data_of, perfect, write

NOTHING = Detections(
    boxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.int64), masks=[]
)


def config_of(folder: Path, test: Any, **evaluation: Any) -> Config:
    data = {"data": {"test": test, "val": test}, **({"evaluation": evaluation} if evaluation else {})}
    return Config(name="c", path=folder / "c.py", data=data, origins={})


def two(folder: Path, kind: str, other: str | None = None) -> list[dict[str, Any]]:
    """Two data sets whose images have the same ids."""
    sections = []
    for name, one in (("first", kind), ("second", other or kind)):
        (folder / name).mkdir()
        write(one, folder / name)
        sections.append(data_of(one, folder / name))
    return sections


def results_of(dataset: JoinedSplit, *kinds: str) -> dict[int | str, Detections]:
    """Perfect results of the parts; nothing is found in a part of the kind ''."""
    found = [from_mmdet(one) if kind else NOTHING for kind in kinds for one in perfect(kind or "coco")]
    return dict(zip(dataset.image_ids, found, strict=True))


def joined(config: Config) -> JoinedSplit:
    dataset = split_dataset(config)
    assert isinstance(dataset, JoinedSplit)
    return dataset


@pytest.mark.parametrize("form", ["list", "ConcatDataset", "nested"])
def test_each_part_gets_its_own_numbers(tmp_path: Path, form: str) -> None:
    sections = two(tmp_path, "coco")
    test: Any = sections
    if form != "list":
        test = {
            "type": "ConcatDataset",
            "datasets": sections if form == "ConcatDataset" else [[sections[0]], sections[1]],
        }
    config = config_of(tmp_path, test, metric=["bbox", "segm"])
    dataset = joined(config)
    assert dataset.image_ids == ["0/1", "0/2", "1/1", "1/2"]
    found = evaluate_results(config, dataset, results_of(dataset, "coco", ""))
    assert (found["0_bbox_mAP"], found["1_bbox_mAP"]) == (1.0, 0.0)
    assert (found["0_segm_mAP"], found["1_segm_mAP"]) == (1.0, 0.0)


def test_a_list_of_annotation_files_is_tested_like_a_list_of_data_sets(tmp_path: Path) -> None:
    first, second = two(tmp_path, "coco")
    section = {**first, **{key: [first[key], second[key]] for key in ("ann_file", "img_prefix")}}
    config = config_of(tmp_path, section)
    dataset = joined(config)
    assert [part.img_prefix.name for part in dataset.parts] == ["first", "second"]
    assert evaluate_results(config, dataset, results_of(dataset, "", "coco"))["1_bbox_mAP"] == 1.0


def test_parts_may_be_of_several_kinds(tmp_path: Path) -> None:
    config = config_of(tmp_path, two(tmp_path, "coco", "lvis"), metric="bbox")
    dataset = joined(config)
    found = measure_fitting(config, dataset, results_of(dataset, "coco", "lvis"))
    assert {key for key, value in found.metrics.items() if value == 1.0} >= {
        "0_bbox_mAP",
        "0_segm_mAP",
        "1_bbox_AP",
    }
    assert sorted(found.curves) == ["0_bbox", "0_segm", "1_bbox", "1_segm"]


@pytest.mark.parametrize(
    ("first", "second", "expected"), [("voc", "voc", 1.0), ("voc", "", 0.5), ("", "", 0.0)]
)
def test_voc_parts_can_count_together(tmp_path: Path, first: str, second: str, expected: float) -> None:
    test = {"type": "ConcatDataset", "datasets": two(tmp_path, "voc"), "separate_eval": False}
    config = config_of(tmp_path, test, metric="recall", proposal_nums=[100])
    dataset = joined(config)
    assert evaluate_results(config, dataset, results_of(dataset, first, second)) == {
        "recall@100@0.5": expected
    }


def test_precision_of_voc_parts_together_is_that_of_one_list(tmp_path: Path) -> None:
    """Half of the objects of each class are found: 6 of VOC 2007's 11 points."""
    test = {"type": "ConcatDataset", "datasets": two(tmp_path, "voc"), "separate_eval": False}
    config = config_of(tmp_path, test, metric="mAP")
    dataset = joined(config)
    found = measure_fitting(config, dataset, results_of(dataset, "voc", ""))
    assert found.metrics["mAP"] == pytest.approx(6 / 11)
    assert found.curves["bbox"].precision.sum() == 51


def test_coco_parts_cannot_count_together(tmp_path: Path) -> None:
    test = {"type": "ConcatDataset", "datasets": two(tmp_path, "coco"), "separate_eval": False}
    with pytest.raises(ConfigError, match=r"data\.test\.separate_eval is False.*COCO.*separate_eval=True"):
        metric_set(joined(config_of(tmp_path, test)))


def test_results_are_kept_in_one_file(tmp_path: Path) -> None:
    dataset = joined(config_of(tmp_path, two(tmp_path, "coco")))
    results = results_of(dataset, "coco", "")
    read = read_results(write_results(tmp_path / "r.pkl", dataset, results), dataset)
    assert {name: len(one) for name, one in read.items()} == {"0/1": 1, "0/2": 1, "1/1": 0, "1/2": 0}
    assert [len(one) for part in dataset.divide(read) for one in part.values()] == [1, 1, 0, 0]


def test_every_part_gets_its_own_files(tmp_path: Path) -> None:
    config = config_of(tmp_path, two(tmp_path, "coco", "voc"))
    dataset = joined(config)
    results = results_of(dataset, "coco", "voc")
    with pytest.raises(DatasetError, match="list of image names"):
        format_results(config, dataset, results, options={"jsonfile_prefix": str(tmp_path / "x")})
    config = config_of(tmp_path, [data_of("coco", tmp_path / "first")] * 2)
    paths = format_results(config, joined(config), results, options={"jsonfile_prefix": str(tmp_path / "x")})
    assert [path.name for path in paths] == ["x_0.bbox.json", "x_0.segm.json", "x_1.bbox.json"]
    assert [one["image_id"] for one in json.loads(paths[2].read_text())] == [1, 2]
    assert check_submission(paths[0], annotations=tmp_path / "first/ann.json").fits


def test_voc_files_go_to_a_folder_of_each_part(tmp_path: Path) -> None:
    config = config_of(tmp_path, two(tmp_path, "voc"))
    dataset = joined(config)
    options = {"txtfile_prefix": str(tmp_path / "out/comp3_det_test")}
    paths = format_results(config, dataset, results_of(dataset, "voc", ""), options=options)
    names = [path.relative_to(tmp_path / "out").as_posix() for path in paths]
    assert names == [f"{part}/comp3_det_test_{name}.txt" for part in (0, 1) for name in CLASSES]
    assert [bool(path.read_text()) for path in paths] == [True, True, False, False]


def test_the_loaded_images_are_those_of_their_part(tmp_path: Path) -> None:
    sections = two(tmp_path, "coco")
    collect = [{"type": "ImageToTensor", "keys": ["img"]}, {"type": "Collect", "keys": ["img"]}]
    for number, section in enumerate(sections):
        section["pipeline"] = [*section["pipeline"], *collect]
        for name in ("1.png", "2.png"):
            picture = np.full((*SIZE, 3), 100 * number, np.uint8)
            cv2.imwrite(str(Path(section["img_prefix"]) / name), picture)
    dataset = joined(config_of(tmp_path, sections))
    dataset.check_images()
    views = [dataset[i][0] for i in range(len(dataset))]
    assert [view[1].image_id for view in views] == dataset.image_ids
    assert [int(view[0].max()) for view in views] == [0, 0, 100, 100]
    assert [len(dataset.annotations(i).boxes) for i in range(4)] == [1, 1, 1, 1]
    assert len(set(drawing_paths(dataset, tmp_path / "show"))) == 4


def test_ground_truth_is_asked_of_every_part(tmp_path: Path) -> None:
    sections = two(tmp_path, "coco")
    write_empty = json.loads((tmp_path / "second/ann.json").read_text()) | {"annotations": []}
    (tmp_path / "second/ann.json").write_text(json.dumps(write_empty))
    config = config_of(tmp_path, sections)
    with pytest.raises(DatasetError, match=r"second/ann\.json: found no object.*--format-only"):
        require_truth(joined(config), ["bbox"], {})
    for folder in ("first", "second"):
        for name in ("1.png", "2.png"):
            (tmp_path / folder / name).touch()
    with pytest.raises(DatasetError, match=r"data\.val: .*second/ann\.json: .*--no-validate") as caught:
        check_evaluation(config, joined(config), with_mask=True)
    assert "--format-only" not in str(caught.value)


def test_detector_eval_of_several_data_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sections = two(tmp_path, "voc")
    (tmp_path / "config.py").write_text(f"data = dict(test={sections!r})\n")
    dataset = joined(config_of(tmp_path, sections))
    write_results(tmp_path / "r.pkl", dataset, results_of(dataset, "voc", ""))
    assert cli.main(["eval", str(tmp_path / "config.py"), str(tmp_path / "r.pkl"), "--eval", "mAP"]) == 0
    printed = capsys.readouterr().out
    assert "0_mAP: 1.0000" in printed
    assert "1_mAP: 0.0000" in printed
