"""VOC's XML files read directly: hand-written folders and what the reference makes of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detector.data.datasets import build_dataset
from detector.data.datasets.voc import VOCDataset
from detector.data.loader import build_train_loader
from detector.errors import ConfigError, DatasetError

Box = tuple[str, tuple[Any, Any, Any, Any], int]


@dataclass
class VocFolder:
    """``<root>/VOC2007`` being written."""

    root: Path

    def image(self, name: str, width: int, height: int, objects: list[Box], *, size: bool = True) -> None:
        base = self.root / "VOC2007"
        for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(base / "JPEGImages" / f"{name}.jpg"), np.full((height, width, 3), 99, np.uint8))
        stated = f"<size><width>{width}</width><height>{height}</height></size>" if size else ""
        rows = "".join(
            f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox><xmin>{b[0]}</xmin>"
            f"<ymin>{b[1]}</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
            for label, b, difficult in objects
        )
        (base / "Annotations" / f"{name}.xml").write_text(f"<annotation>{stated}{rows}</annotation>")
        with (base / "ImageSets" / "Main" / "train.txt").open("a") as file:
            file.write(f"{name}\n")

    def section(self, **more: Any) -> dict[str, Any]:
        steps = [
            {"type": "LoadImageFromFile"},
            {"type": "LoadAnnotations", "with_bbox": True},
            {"type": "Resize", "img_scale": (64, 64), "keep_ratio": True},
            {"type": "DefaultFormatBundle"},
            {"type": "Collect", "keys": ["img", "gt_bboxes", "gt_labels"]},
        ]
        base = {
            "type": "VOCDataset",
            "ann_file": str(self.root / "VOC2007/ImageSets/Main/train.txt"),
            "img_prefix": str(self.root / "VOC2007"),
            "pipeline": steps,
        }
        return {**base, **more}

    def one(self, objects: list[Box], **more: Any) -> Any:
        self.image("000001", 64, 48, objects)
        return build_dataset(self.section(**more))


@pytest.fixture
def voc(tmp_path: Path) -> VocFolder:
    return VocFolder(tmp_path)


def test_coordinates_are_whole_and_one_less_than_in_the_file(voc: VocFolder) -> None:
    found = voc.one([("dog", (1, 2, 30, 40), 0), ("cat", ("5.7", "6.9", "20.2", "30"), 0)]).annotations(0)

    assert found.boxes.tolist() == [[0, 1, 29, 39], [4, 5, 19, 29]]
    assert found.labels.tolist() == [VOCDataset.CLASSES.index("dog"), VOCDataset.CLASSES.index("cat")]
    assert found.image_hw == (48, 64)


def test_difficult_objects_are_ignored_boxes_with_their_class(voc: VocFolder) -> None:
    found = voc.one([("dog", (1, 2, 30, 40), 1), ("cat", (5, 6, 20, 30), 0)]).annotations(0)

    assert found.boxes.tolist() == [[4, 5, 19, 29]]
    assert found.ignore_boxes.tolist() == [[0, 1, 29, 39]]
    assert found.ignore_labels.tolist() == [VOCDataset.CLASSES.index("dog")]


def test_an_image_of_difficult_objects_only_is_trained_on(voc: VocFolder) -> None:
    _, targets, meta = voc.one([("dog", (1, 2, 30, 40), 1)])[0]

    assert meta.ori_filename == "JPEGImages/000001.jpg"
    assert targets.boxes.shape == (0, 4)
    assert targets.ignore_boxes.tolist() == [[0, 1, 29, 39]]


@pytest.mark.parametrize(("min_size", "kept"), [(None, 2), (10, 2), (15, 1)])
def test_small_objects_are_ignored_in_training(voc: VocFolder, min_size: int | None, kept: int) -> None:
    objects: list[Box] = [("dog", (1, 2, 30, 40), 0), ("dog", (1, 1, 12, 40), 0)]
    found = voc.one(objects, min_size=min_size).annotations(0)

    assert len(found.boxes) == kept
    assert len(found.ignore_boxes) == 2 - kept


def test_a_box_without_width_is_ignored_in_training_and_kept_in_testing(voc: VocFolder) -> None:
    objects: list[Box] = [("dog", (5, 2, 5, 40), 0), ("dog", (1, 2, 30, 40), 0)]
    assert len(voc.one(objects).annotations(0).boxes) == 1
    assert len(build_dataset(voc.section(), test_mode=True).annotations(0).boxes) == 2


def test_which_images_count(voc: VocFolder) -> None:
    voc.image("wanted", 64, 48, [("dog", (1, 2, 30, 40), 0)])
    voc.image("small", 64, 31, [("dog", (1, 2, 30, 20), 0)])
    voc.image("other", 64, 48, [("lamp", (1, 2, 30, 40), 0)])

    assert build_dataset(voc.section()).image_ids == ["wanted"]
    assert build_dataset(voc.section(filter_empty_gt=False)).image_ids == ["wanted", "other"]
    assert build_dataset(voc.section(), test_mode=True).image_ids == ["wanted", "small", "other"]


def test_aspect_groups_and_a_size_that_only_the_image_knows(voc: VocFolder) -> None:
    voc.image("wide", 64, 48, [("dog", (1, 2, 30, 40), 0)])
    voc.image("high", 48, 64, [("dog", (1, 2, 30, 40), 0)], size=False)
    dataset = build_dataset(voc.section())

    assert dataset.aspect_groups().tolist() == [1, 0]
    assert dataset.image_info(1) == {
        "id": "high",
        "file_name": "JPEGImages/high.jpg",
        "height": 64,
        "width": 48,
    }


@pytest.mark.parametrize(
    ("folder", "year"), [("VOC2007", 2007), ("VOC2012", 2012), ("VOCdevkit/VOC2012/", 2012)]
)
def test_the_year_comes_from_the_prefix(voc: VocFolder, folder: str, year: int) -> None:
    voc.image("a", 64, 48, [("dog", (1, 2, 30, 40), 0)])
    target = voc.root / "linked" / folder
    target.parent.mkdir(parents=True)
    target.symlink_to(voc.root / "VOC2007")

    assert build_dataset(voc.section(img_prefix=str(target))).year == year


def test_a_prefix_without_a_year_says_what_to_use(voc: VocFolder, tmp_path: Path) -> None:
    voc.image("a", 64, 48, [("dog", (1, 2, 30, 40), 0)])
    plain = tmp_path / "own"
    (voc.root / "VOC2007").rename(plain)
    section = voc.section(img_prefix=str(plain), ann_file=str(plain / "ImageSets/Main/train.txt"))
    with pytest.raises(ConfigError, match=r"neither VOC2007 nor VOC2012.*XMLDataset"):
        build_dataset(section)
    assert build_dataset({**section, "type": "XMLDataset", "classes": "dog"}).class_names == ("dog",)


def test_lists_of_years_are_joined(voc: VocFolder) -> None:
    voc.image("a", 64, 48, [("dog", (1, 2, 30, 40), 0)])
    section = voc.section()
    pair = {key: [section[key]] * 2 for key in ("ann_file", "img_prefix")}
    dataset = build_dataset({**section, **pair, "separate_eval": False})

    assert [dataset.image_info(i)["id"] for i in range(len(dataset))] == ["a", "a"]
    assert dataset.separate_eval is False


def test_batches_reach_training(voc: VocFolder) -> None:
    for i in range(4):
        voc.image(f"{i}", 64, 48, [("dog", (1, 2, 30, 40), 0)])
    loader = build_train_loader(build_dataset(voc.section()), samples_per_gpu=2, workers_per_gpu=0, seed=0)

    assert [len(batch.targets or ()) for batch in loader] == [2, 2]


def test_a_misspelt_class_gives_the_nearest_name(voc: VocFolder) -> None:
    voc.image("a", 64, 48, [("dog", (1, 2, 30, 40), 0), ("cat", (1, 2, 30, 40), 0)])
    with pytest.raises(DatasetError, match=r"'dogs' \(nearest: 'dog'\).*'cat', 'dog'"):
        build_dataset(voc.section(classes=("dogs", "cat")))


def test_a_class_that_does_not_occur_is_only_reported(voc: VocFolder, caplog: Any) -> None:
    voc.image("a", 64, 48, [("dog", (1, 2, 30, 40), 0)])
    with caplog.at_level(logging.WARNING):
        assert build_dataset(voc.section(classes=("dog", "zebra"))).class_names == ("dog", "zebra")
    assert "no object of the classes zebra" in caplog.text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<annotation>", ["a.xml", "is not XML"]),
        ("<annotation><object/></annotation>", ["a.xml", "has no size"]),
        ("<annotation>{size}<object><bndbox/></object></annotation>", ["object 1", "four numbers"]),
        (
            "<annotation>{size}<object><name>dog</name><bndbox><xmin>9</xmin><ymin>1</ymin><xmax>2</xmax>"
            "<ymax>5</ymax></bndbox></object></annotation>",
            ["object 1", "inverted box [9, 1, 2, 5]"],
        ),
        (
            "<annotation>{size}<object><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>5</ymax>"
            "</bndbox></object></annotation>",
            ["object 1 has no name"],
        ),
        ("<annotation><size><width>x</width><height>4</height></size></annotation>", ["size ['4', 'x']"]),
    ],
)
def test_broken_files_are_named(voc: VocFolder, text: str, parts: list[str]) -> None:
    voc.image("a", 64, 48, [])
    base = voc.root / "VOC2007"
    size = "<size><width>64</width><height>48</height></size>"
    (base / "Annotations" / "a.xml").write_text(text.format(size=size))
    if "has no size" in parts:
        (base / "JPEGImages" / "a.jpg").unlink()
        parts = ["a.xml", "states no size", "cannot be read"]
    with pytest.raises(DatasetError) as error:
        build_dataset(voc.section())
    assert [part for part in parts if part not in str(error.value)] == [], str(error.value)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "does not exist"),
        ("", "names no image"),
        ('{"images": []}', "looks like JSON"),
        ("a\nb\na\n", "'a' more than once"),
        ("gone\n", "gone.xml"),
    ],
)
def test_broken_lists_are_named(voc: VocFolder, content: str | None, part: str) -> None:
    voc.image("a", 64, 48, [])
    path = voc.root / "VOC2007/ImageSets/Main/train.txt"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(DatasetError, match=part):
        build_dataset(voc.section())


def test_min_size_belongs_to_training(voc: VocFolder) -> None:
    voc.image("a", 64, 48, [])
    with pytest.raises(ConfigError, match="min_size is 17 in a test dataset"):
        build_dataset(voc.section(min_size=17), test_mode=True)


def test_wrong_arguments_list_those_of_the_parents_too(voc: VocFolder) -> None:
    voc.image("a", 64, 48, [])
    with pytest.raises(
        ConfigError, match=r"img_prefx.*nearest: 'img_prefix'.*min_size.*img_subdir.*ann_file"
    ):
        build_dataset(voc.section(img_prefx="x"))


def test_wider_face_finds_the_image_in_the_folder_of_the_file(voc: VocFolder) -> None:
    voc.image("f", 64, 48, [("face", (1, 2, 30, 40), 0)])
    base = voc.root / "VOC2007"
    (base / "party").mkdir()
    (base / "JPEGImages" / "f.jpg").rename(base / "party" / "f.jpg")
    path = base / "Annotations" / "f.xml"
    path.write_text(path.read_text().replace("<annotation>", "<annotation><folder>party</folder>"))
    dataset = build_dataset(voc.section(type="WIDERFaceDataset", min_size=17))

    assert dataset.image_info(0)["file_name"] == "party/f.jpg"
    assert dataset[0][1].labels.tolist() == [0]


def test_a_test_split_without_any_annotation_file_is_read(voc: VocFolder) -> None:
    """The one that VOC's server judges comes as images and a list of names."""
    for name, width, height in (("wide", 64, 48), ("high", 48, 64)):
        voc.image(name, width, height, [("dog", (1, 2, 30, 40), 0)])
        (voc.root / "VOC2007/Annotations" / f"{name}.xml").unlink()
    dataset = build_dataset(voc.section(), test_mode=True)

    assert [dataset.image_info(i)["height"] for i in range(2)] == [48, 64]
    assert dataset.image_ids == ["wide", "high"]
    assert [len(dataset.annotations(i).boxes) for i in range(2)] == [0, 0]
    with pytest.raises(DatasetError, match=r"wide\.xml: does not exist"):
        build_dataset(voc.section())


def test_a_single_missing_annotation_file_is_an_error_in_testing_too(voc: VocFolder) -> None:
    for name in ("a", "b"):
        voc.image(name, 64, 48, [("dog", (1, 2, 30, 40), 0)])
    (voc.root / "VOC2007/Annotations/b.xml").unlink()
    with pytest.raises(DatasetError, match=r"b\.xml: does not exist, but the list names 'b'"):
        build_dataset(voc.section(), test_mode=True)


def test_a_test_split_with_neither_annotations_nor_images_is_named(voc: VocFolder) -> None:
    voc.image("a", 64, 48, [])
    for path in (voc.root / "VOC2007").rglob("a.*"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"a\.jpg: cannot be read .*a\.xml does not exist"):
        build_dataset(voc.section(), test_mode=True)
