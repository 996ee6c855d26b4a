"""Files for the COCO and Cityscapes servers: written without ground truth, and checked."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from detector.errors import DatasetError
from detector.evaluation.submissions import cityscapes, coco
from detector.structures import masks
from detector.structures.samples import Detections

CLASSES = ("car", "person")
MASK = np.pad(np.ones((4, 6), np.uint8), ((1, 5), (2, 12)))
BASE = "ulm_000000_000019"


@pytest.fixture
def ann_file(tmp_path) -> Path:
    """A test split: two images of 10 x 20, no annotations key."""
    images = [
        {"id": i, "file_name": f"ulm/ulm_00000{i}_000019_leftImg8bit.png", "height": 10, "width": 20}
        for i in (0, 1)
    ]
    path = tmp_path / "test.json"
    path.write_text(
        json.dumps(
            {"images": images, "categories": [{"id": 24, "name": "person"}, {"id": 26, "name": "car"}]}
        )
    )
    return path


def results(*, with_masks: bool = True) -> dict[int | str, Detections]:
    """A car and a person on image 0, nothing on image 1."""
    rles = masks.encode_batch(np.stack([MASK, MASK]))
    return {
        0: Detections(
            boxes=torch.tensor([[2, 1, 8, 5], [2.5, 1.25, 8, 5]]),
            scores=torch.tensor([0.9, 0.1]),
            labels=torch.tensor([0, 1]),
            masks=rles if with_masks else None,
        ),
        1: Detections(
            torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), [] if with_masks else None
        ),
    }


def test_coco_files_hold_the_files_category_ids_and_text_counts(tmp_path, ann_file):
    paths = coco.write(results(), ann_file=ann_file, class_names=CLASSES, prefix=tmp_path / "out" / "r")
    assert [p.name for p in paths] == ["r.bbox.json", "r.segm.json"]
    boxes, segments = (json.loads(p.read_text()) for p in paths)
    assert boxes[1] == {
        "image_id": 0,
        "category_id": 24,
        "bbox": [2.5, 1.25, 5.5, 3.75],
        "score": pytest.approx(0.1),
    }
    assert [s["category_id"] for s in segments] == [26, 24]
    assert isinstance(segments[0]["segmentation"]["counts"], str)
    assert [coco.check(p, ann_file) for p in paths] == [[], []]


def test_a_box_model_writes_no_mask_file(tmp_path, ann_file):
    paths = coco.write(
        results(with_masks=False), ann_file=ann_file, class_names=CLASSES, prefix=tmp_path / "r"
    )
    assert [p.name for p in paths] == ["r.bbox.json"]


def test_results_of_another_split_are_refused(tmp_path, ann_file):
    with pytest.raises(DatasetError, match="image 9"):
        coco.write({9: results()[1]}, ann_file=ann_file, class_names=CLASSES, prefix=tmp_path / "r")


GOOD = {"image_id": 0, "category_id": 24, "score": 0.5, "bbox": [1, 1, 5, 5]}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({**GOOD, "image_id": 7}, "image_id 7"),
        ({**GOOD, "category_id": 1}, "category_id 1"),
        ({**GOOD, "score": float("nan")}, "score"),
        ({**GOOD, "score": None}, "score"),
        ({**GOOD, "bbox": [1, 1, 5]}, "four finite"),
        ({**GOOD, "bbox": [1, 1, -5, 5]}, "negative side"),
        ({**GOOD, "bbox": [1, 1, 50, 5]}, "leaves the image"),
        ({"image_id": 0, "category_id": 24, "score": 0.5}, "neither"),
        ({**GOOD, "segmentation": {"size": [20, 10], "counts": "0"}}, "size"),
        ({**GOOD, "segmentation": {"size": [10, 20], "counts": "0"}}, "cover"),
        ("text", "found str"),
    ],
)
def test_broken_coco_results_are_refused_with_the_reason(tmp_path, ann_file, record, message):
    path = tmp_path / "r.bbox.json"
    path.write_text(json.dumps([GOOD, record]))
    problems = coco.check(path, ann_file)
    assert len(problems) == 1
    assert problems[0].startswith("result 1: ")
    assert message in problems[0]


@pytest.mark.parametrize("content", ["[", "{}"])
def test_a_file_that_is_no_list_is_refused(tmp_path, ann_file, content):
    path = tmp_path / "r.bbox.json"
    path.write_text(content)
    assert len(coco.check(path, ann_file)) == 1


def test_cityscapes_files_and_zip(tmp_path, ann_file):
    out = tmp_path / "submission"
    paths = cityscapes.write(results(), ann_file=ann_file, class_names=CLASSES, out_dir=out)
    assert [p.name for p in paths] == [f"{BASE}_pred.txt", "ulm_000001_000019_pred.txt", "submission.zip"]
    assert paths[0].read_text() == f"{BASE}_0_car.png 26 0.9\n{BASE}_1_person.png 24 0.1\n"
    assert paths[1].read_text() == ""
    pixels = cv2.imread(str(out / f"{BASE}_0_car.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(pixels, MASK * 255)
    assert cityscapes.check(out, ann_file) == []
    first = paths[2].read_bytes()
    assert zipfile.ZipFile(paths[2]).namelist() == sorted(p.name for p in out.iterdir())
    assert (
        cityscapes.write(results(), ann_file=ann_file, class_names=CLASSES, out_dir=out)[2].read_bytes()
        == first
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png 26", "fields"),
        ("../a.png 26 0.5", "flat"),
        ("a.png 7 0.5", "class id 7"),
        ("a.png 26 high", "finite"),
        ("a.png 26 nan", "finite"),
        ("b.png 26 0.5", "missing"),
        ("small.png 26 0.5", "shape"),
        ("a.png 26 0.5\na.png 26 0.5", "twice"),
    ],
)
def test_broken_cityscapes_lines_are_refused_with_the_reason(tmp_path, ann_file, text, message):
    out = tmp_path / "submission"
    cityscapes.write({}, ann_file=ann_file, class_names=CLASSES, out_dir=out)
    for name, shape in (("a.png", (10, 20)), ("small.png", (5, 5))):
        if name in text:
            cv2.imwrite(str(out / name), np.zeros(shape, np.uint8))
    (out / f"{BASE}_pred.txt").write_text(text)
    problems = cityscapes.check(out, ann_file)
    assert any(message in p and p.startswith(f"{BASE}_pred.txt line ") for p in problems)


def test_missing_partners_are_refused(tmp_path, ann_file):
    out = tmp_path / "submission"
    cityscapes.write(results(), ann_file=ann_file, class_names=CLASSES, out_dir=out)
    (out / "ulm_000001_000019_pred.txt").unlink()
    (out / "extra.png").write_bytes(b"")
    assert cityscapes.check(out, ann_file) == [
        "ulm_000001_000019_pred.txt is missing",
        "extra.png: no text file names it",
    ]


@pytest.mark.parametrize(
    ("classes", "names", "message"),
    [
        (("cat",), {}, "cat"),
        (CLASSES, {0: "image.png"}, "city"),
        (CLASSES, {0: "a b_0_0_leftImg8bit.png"}, "city"),
    ],
)
def test_names_that_are_not_cityscapes_are_refused(tmp_path, classes, names, message):
    with pytest.raises(DatasetError, match=message):
        cityscapes.write_predictions({}, file_names=names, class_names=classes, out_dir=tmp_path / "o")
