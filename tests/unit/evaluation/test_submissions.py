"""Files for the COCO, LVIS, Cityscapes and VOC servers: written without ground truth, as the servers want."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from detector.errors import DatasetError
from detector.evaluation.submissions import cityscapes, coco, voc
from detector.evaluation.submissions.check import check_submission
from detector.evaluation.submissions.formats import wanted_formats, write_files
from detector.structures import masks
from detector.structures.samples import Detections

CLASSES = ("car", "person")
VOC_CLASSES = voc.VOC_CLASSES
MASK = np.pad(np.ones((4, 6), np.uint8), ((1, 5), (2, 12)))
BASE = "ulm_000000_000019"


@dataclass
class Split:
    """What a data set tells of itself."""

    ann_file: Path
    class_names: tuple[str, ...]
    rows: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.rows)

    def image_info(self, index: int, /) -> dict[str, Any]:
        return self.rows[index]


@pytest.fixture
def ann_file(tmp_path: Path) -> Path:
    """A test split: two images of 10 x 20, no annotations key."""
    images = [
        {"id": i, "file_name": f"ulm/ulm_00000{i}_000019_leftImg8bit.png", "height": 10, "width": 20}
        for i in (0, 1)
    ]
    path = tmp_path / "test.json"
    categories = [{"id": 24, "name": "person"}, {"id": 26, "name": "car"}]
    path.write_text(json.dumps({"images": images, "categories": categories}))
    return path


@pytest.fixture
def split(ann_file: Path) -> Split:
    return Split(ann_file, CLASSES, json.loads(ann_file.read_text())["images"])


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


def faults(path: Path, annotations: Path, kind: str | None = None) -> list[str]:
    return check_submission(path, annotations=annotations, kind=kind).findings.lines()


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
    assert [faults(p, ann_file) for p in paths] == [[], []]


def test_a_box_model_writes_no_mask_file(tmp_path, ann_file):
    found = results(with_masks=False)
    paths = coco.write(found, ann_file=ann_file, class_names=CLASSES, prefix=tmp_path / "r")
    assert [p.name for p in paths] == ["r.bbox.json"]


def test_proposals_have_category_one_and_pass(tmp_path, split):
    found = {0: results(with_masks=False)[0]}
    found[0].labels = torch.zeros(2, dtype=torch.int64)
    (path,) = write_files(found, split, jsonfile_prefix=tmp_path / "r", proposals=True)
    assert path.name == "r.proposal.json"
    assert [r["category_id"] for r in json.loads(path.read_text())] == [1, 1]
    assert faults(path, split.ann_file) == []


@pytest.mark.parametrize("proposals", [False, True], ids=["boxes", "proposals"])
def test_results_of_another_split_are_refused(tmp_path, split, proposals):
    with pytest.raises(DatasetError, match="image 9"):
        write_files({9: results()[1]}, split, jsonfile_prefix=tmp_path / "r", proposals=proposals)


def test_cityscapes_files_and_zip(tmp_path, ann_file):
    out = tmp_path / "submission"
    paths = cityscapes.write(results(), ann_file=ann_file, class_names=CLASSES, out_dir=out)
    assert [p.name for p in paths] == [f"{BASE}_pred.txt", "ulm_000001_000019_pred.txt", "submission.zip"]
    assert paths[0].read_text() == f"{BASE}_0_car.png 26 0.9\n{BASE}_1_person.png 24 0.1\n"
    assert paths[1].read_text() == ""
    pixels = cv2.imread(str(out / f"{BASE}_0_car.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(pixels, MASK * 255)
    assert [faults(path, ann_file) for path in (out, paths[2])] == [[], []]
    first = paths[2].read_bytes()
    assert zipfile.ZipFile(paths[2]).namelist() == sorted(p.name for p in out.iterdir())
    again = cityscapes.write(results(), ann_file=ann_file, class_names=CLASSES, out_dir=out)
    assert again[2].read_bytes() == first


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


VOC_NAMES = {0: "VOC2012/JPEGImages/2008_000001.jpg", 1: "VOC2012/JPEGImages/2008_000002.jpg"}


def test_voc_files_count_pixels_from_one(tmp_path):
    found = results(with_masks=False)
    paths = voc.write(found, file_names=VOC_NAMES, class_names=CLASSES, prefix=tmp_path / "comp3_det_val")
    assert [p.name for p in paths] == ["comp3_det_val_car.txt", "comp3_det_val_person.txt"]
    assert [p.read_text() for p in paths] == [
        "2008_000001 0.9 3 2 9 6\n",
        "2008_000001 0.1 3.5 2.25 9 6\n",
    ]


def test_voc_files_in_a_folder_are_comp4(tmp_path):
    paths = voc.write({}, file_names={}, class_names=VOC_CLASSES, prefix=tmp_path, split="test")
    assert [p.name for p in paths] == [f"comp4_det_test_{name}.txt" for name in VOC_CLASSES]
    assert all(p.read_text() == "" for p in paths)


@pytest.mark.parametrize(
    ("names", "classes", "words"),
    [
        ({0: "a.jpg", 1: "b/a.png"}, CLASSES, "no other image of the split has"),
        ({0: "a b.jpg", 1: "b.jpg"}, CLASSES, "without spaces"),
        ({0: "a.jpg"}, CLASSES, "image 1 is not in the data set"),
        ({0: "a.jpg", 1: "b.jpg"}, ("traffic light", "car"), "'traffic light' cannot be part"),
    ],
)
def test_voc_names_that_do_not_fit_are_refused(tmp_path, names, classes, words):
    with pytest.raises(DatasetError, match=words):
        voc.write(results(with_masks=False), file_names=names, class_names=classes, prefix=tmp_path)


def test_a_voc_list_of_images_gets_text_files(tmp_path):
    rows = [{"id": i, "file_name": name} for i, name in VOC_NAMES.items()]
    listed = tmp_path / "test.txt"
    listed.write_text("2008_000001\n2008_000002\n")
    paths = write_files({}, Split(listed, ("red", "car"), rows), txtfile_prefix=tmp_path / "comp4_det_test")
    assert [p.name for p in paths] == ["comp4_det_test_red.txt", "comp4_det_test_car.txt"]


@pytest.mark.parametrize(
    ("ann_name", "classes", "file_name", "prefixes", "formats"),
    [
        ("val.json", CLASSES, "ulm_0_1_leftImg8bit.png", {"txtfile_prefix": "x"}, ["cityscapes"]),
        ("voc07_test.json", VOC_CLASSES, "a.jpg", {"txtfile_prefix": "x"}, ["voc"]),
        ("test.txt", ("red",), "a.jpg", {"txtfile_prefix": "x"}, ["voc"]),
        ("val.json", CLASSES, "a.jpg", {"jsonfile_prefix": "x"}, ["json"]),
        (
            *("val.json", CLASSES, "a_0_1_leftImg8bit.png"),
            {"jsonfile_prefix": "x", "txtfile_prefix": "y"},
            ["json", "cityscapes"],
        ),
        ("val.json", CLASSES, "a.jpg", {}, []),
    ],
)  # fmt: skip
def test_the_data_set_decides_the_format(ann_name, classes, file_name, prefixes, formats):
    split = Split(Path(ann_name), classes, [{"id": 1, "file_name": file_name}])
    assert wanted_formats(split, **prefixes) == formats


@pytest.mark.parametrize(
    ("ann_name", "classes", "file_name", "prefixes", "words"),
    [
        ("val.json", ("cat",), "a.jpg", {"txtfile_prefix": "x"}, "neither Cityscapes'"),
        ("test.txt", VOC_CLASSES, "a.jpg", {"jsonfile_prefix": "x"}, "list of image names"),
        ("val.json", ("cat",), "u_0_1_leftImg8bit.png", {"txtfile_prefix": "x"}, "found classes"),
    ],
)
def test_a_format_that_the_data_has_not_is_refused(ann_name, classes, file_name, prefixes, words):
    split = Split(Path(ann_name), classes, [{"id": 1, "file_name": file_name}])
    with pytest.raises(DatasetError, match=words):
        wanted_formats(split, **prefixes)
