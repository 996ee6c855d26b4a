"""Pascal VOC to COCO and pickle: hand-computed folders, both layouts, and every kind of bad input."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detector.data.converters.voc_to_coco import VOC_CLASSES, convert
from detector.errors import DatasetError

Item = tuple[str, tuple[Any, Any, Any, Any], str | None]


def write_image(
    folder: Path, stem: str, objects: list[Item], *, size: str = "20x10", extension: str = ".jpg"
) -> None:
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / "JPEGImages" / f"{stem}{extension}"), np.zeros((10, 20, 3), np.uint8))
    width, _, height = size.partition("x")
    text = f"<annotation><size><width>{width}</width><height>{height}</height></size>"
    for name, box, difficult in objects:
        corners = "".join(
            f"<{t}>{v}</{t}>" for t, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        flag = "" if difficult is None else f"<difficult>{difficult}</difficult>"
        text += f"<object><name>{name}</name>{flag}<bndbox>{corners}</bndbox></object>"
    (folder / "Annotations" / f"{stem}.xml").write_text(text + "</annotation>")


def write_list(folder: Path, split: str, stems: list[str]) -> None:
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{s}\n" for s in stems))


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    folder = tmp_path / "cells"
    write_image(
        folder, "b", [("red", (1, 1, 20, 10), "0"), ("white", (3, 2, 8, 6), "1"), ("red", (5, 5, 9, 9), None)]
    )
    write_image(folder, "a", [("white", (2.5, 3, 7, 8.25), "0")], extension=".png")
    write_list(folder, "train", ["b", "a"])
    write_list(folder, "val", ["a"])
    return folder


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit"
    for year in ("2007", "2012"):
        write_image(
            root / f"VOC{year}", f"{year}_1", [("dog", (1, 1, 4, 5), "0"), ("cat", (2, 2, 4, 5), "1")]
        )
        write_list(root / f"VOC{year}", "train", [f"{year}_1"])
    write_list(root / "VOC2007", "test", ["2007_1"])
    return root


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_folder_gives_one_file_per_list(cells: Path, tmp_path: Path) -> None:
    written = convert(cells, out_dir=tmp_path / "annotations")
    assert [p.name for p in written] == ["train.json", "val.json"]


def test_folder_document_by_hand(cells: Path) -> None:
    document = read(convert(cells)[0])
    assert document["images"] == [
        {"id": 1, "file_name": "b.jpg", "height": 10, "width": 20},
        {"id": 2, "file_name": "a.png", "height": 10, "width": 20},
    ]
    assert [(c["id"], c["name"]) for c in document["categories"]] == [(1, "red"), (2, "white")]
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore")
    # Less 1 each, width without + 1; the difficult object comes last of its image.
    assert [tuple(a[k] for k in keys) for a in document["annotations"]] == [
        (1, 1, 1, [0, 0, 19, 9], 171, 0, 0),
        (2, 1, 1, [4, 4, 4, 4], 16, 0, 0),
        (3, 1, 2, [2, 1, 5, 4], 20, 1, 0),
        (4, 2, 2, [1.5, 2, 4.5, 5.25], 23.625, 0, 0),
    ]
    assert document["annotations"][1]["segmentation"] == [[4, 4, 4, 8, 8, 8, 8, 4]]


def test_zero_based_boxes_are_taken_as_they_are(cells: Path) -> None:
    assert read(convert(cells, one_based=False)[0])["annotations"][0]["bbox"] == [1, 1, 19, 9]


def test_given_classes_decide_the_order(cells: Path) -> None:
    categories = read(convert(cells, classes=["white", "red"])[0])["categories"]
    assert [(c["id"], c["name"]) for c in categories] == [(1, "white"), (2, "red")]


def test_devkit_names_and_joint_files(devkit: Path, tmp_path: Path) -> None:
    names = [p.name for p in convert(devkit, out_dir=tmp_path / "out")]
    assert names == ["voc07_train.json", "voc07_test.json", "voc12_train.json", "voc0712_train.json"]


def test_devkit_document_has_the_twenty_classes_from_zero(devkit: Path, tmp_path: Path) -> None:
    joint = read(convert(devkit, out_dir=tmp_path / "out")[3])
    assert [(c["id"], c["name"]) for c in joint["categories"]] == list(enumerate(VOC_CLASSES))
    assert [i["file_name"] for i in joint["images"]] == [
        "VOC2007/JPEGImages/2007_1.jpg",
        "VOC2012/JPEGImages/2012_1.jpg",
    ]
    found = [(a["id"], a["image_id"], a["category_id"], a["iscrowd"]) for a in joint["annotations"]]
    assert found == [(1, 1, 11, 0), (2, 1, 7, 1), (3, 2, 11, 0), (4, 2, 7, 1)]


def test_pickle_is_the_middle_format(devkit: Path, tmp_path: Path) -> None:
    path = convert(devkit, out_dir=tmp_path / "out", out_format="pkl")[0]
    assert path.name == "voc07_train.pkl"
    (record,) = pickle.loads(path.read_bytes())
    assert (record["filename"], record["width"], record["height"]) == (
        "VOC2007/JPEGImages/2007_1.jpg",
        20,
        10,
    )
    ann = record["ann"]
    assert ann["bboxes"].dtype == np.float32
    assert ann["labels"].dtype == np.int64
    assert (ann["bboxes"].tolist(), ann["labels"].tolist()) == ([[0, 0, 3, 4]], [11])
    assert (ann["bboxes_ignore"].tolist(), ann["labels_ignore"].tolist()) == ([[1, 1, 3, 4]], [7])


def test_pickle_of_an_image_without_objects(cells: Path) -> None:
    write_image(cells, "a", [], extension=".png")
    record = pickle.loads(convert(cells, out_format="pkl")[1].read_bytes())[0]
    assert record["ann"]["bboxes"].shape == (0, 4)
    assert record["ann"]["labels"].shape == (0,)


def test_notes_count_what_came_in_and_went_out(cells: Path) -> None:
    write_image(cells, "a", [("white", (3, 3, 3, 3), "0")], extension=".png")
    lines: list[str] = []
    convert(cells, note=lines.append)
    assert lines[:3] == [
        f"trainval: no {cells}/ImageSets/Main/trainval.txt, skipped",
        f"test: no {cells}/ImageSets/Main/test.txt, skipped",
        "classes, sorted by name: red, white",
    ]
    counts = "2 images listed, 2 written; 4 objects found, 3 written (1 of them difficult)"
    assert f"{counts}, 1 without area left out" in lines[3]
    assert "Annotations/a.xml object 1" in lines[3]
    assert "1 images have no object" in lines[4]


def test_size_is_taken_from_the_image_when_the_file_has_none(cells: Path) -> None:
    write_image(cells, "a", [], size="0x0", extension=".png")
    assert read(convert(cells)[1])["images"][0]["width"] == 20


BAD_OBJECTS: list[tuple[Item, str]] = [
    (("red", (9, 1, 2, 5), "0"), r"object 1: inverted box of 'red': 9, 1, 2, 5"),
    (("Red", (1, 1, 2, 5), "0"), r"unknown class 'Red', did you mean 'red'\?"),
    (("zebra", (1, 1, 2, 5), "0"), r"unknown class 'zebra'\. "),
    (("red", (1, "", 2, 5), "0"), r"ymin of 'red' is '', expected a number"),
    (("red", (1, "nan", 2, 5), "0"), r"box of 'red' is not finite"),
    (("", (1, 1, 2, 5), "0"), r"object 1: no name"),
]


@pytest.mark.parametrize(("item", "words"), BAD_OBJECTS, ids=[words[:20] for _, words in BAD_OBJECTS])
def test_bad_object_is_named(cells: Path, item: Item, words: str) -> None:
    write_image(cells, "a", [item], extension=".png")
    with pytest.raises(DatasetError, match=r"val\.txt: 1 problem|train\.txt: 1 problem") as caught:
        convert(cells, classes=["red", "white"])
    assert caught.match(words)
    assert caught.match("--skip-invalid")


def test_same_fault_in_many_objects_is_said_once(cells: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"1 problem: .*b\.xml object 1: unknown class 'red'.*\(and in 1 more obj"
    ):
        convert(cells, classes=["white"])


def test_bad_objects_can_be_left_out(cells: Path) -> None:
    write_image(cells, "a", [("red", (9, 1, 2, 5), "0"), ("red", (1, 1, 2, 5), "0")], extension=".png")
    lines: list[str] = []
    document = read(convert(cells, skip_invalid=True, note=lines.append)[1])
    assert len(document["annotations"]) == 1
    assert "2 objects found, 1 written, 1 invalid left out" in lines[-1]


def test_size_mismatch(cells: Path) -> None:
    write_image(cells, "a", [], size="21x10", extension=".png")
    with pytest.raises(DatasetError, match=r"a\.xml says 21 x 10 but the image is 20 x 10"):
        convert(cells)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("JPEGImages/a.png", "a is listed but JPEGImages has no such image"),
        ("Annotations/a.xml", r"a\.png has no partner Annotations/a\.xml"),
    ],
)
def test_missing_partner(cells: Path, path: str, words: str) -> None:
    (cells / path).unlink()
    with pytest.raises(DatasetError, match=words):
        convert(cells)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("JPEGImages/a.png", r"JPEGImages/a\.png cannot be read"),
        ("Annotations/a.xml", r"Annotations/a\.xml is not XML"),
    ],
)
def test_unreadable_file(cells: Path, path: str, words: str) -> None:
    (cells / path).write_bytes(b"<oops")
    with pytest.raises(DatasetError, match=words):
        convert(cells)


def test_image_listed_twice(cells: Path) -> None:
    write_list(cells, "val", ["a", "a"])
    with pytest.raises(DatasetError, match="a is listed twice"):
        convert(cells)


def test_no_voc_folder(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match="found no VOC2007 or VOC2012 and no JPEGImages, Annotations, ImageSets/Main"
    ):
        convert(tmp_path)


def test_folder_around_the_devkit(devkit: Path) -> None:
    with pytest.raises(DatasetError, match=rf"Did you mean {devkit}\?"):
        convert(devkit.parent)


def test_only_empty_lists(cells: Path) -> None:
    write_list(cells, "train", [])
    write_list(cells, "val", [])
    with pytest.raises(DatasetError, match="found no image in ImageSets/Main"):
        convert(cells)


def test_unknown_format(cells: Path) -> None:
    with pytest.raises(DatasetError, match="out_format 'xml', expected 'coco' or 'pkl'"):
        convert(cells, out_format="xml")
