"""The three formats on disk: layout, agreement with the scenes, equal bytes for any number of processes."""

from __future__ import annotations

import hashlib
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detector.data.synthetic import Recipe, draw_scene, write_cityscapes, write_coco, write_voc
from detector.data.synthetic.coco import outlines, run_lengths

RECIPE = Recipe(seed=3, train=5, val=2, test=1, height=96, width=192)


def files_of(root: Path) -> dict[str, str]:
    paths = sorted(p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cityscapes")
    write_cityscapes(root, recipe=RECIPE)
    return root


def test_cityscapes_layout(cityscapes: Path) -> None:
    names = set(files_of(cityscapes))
    images = {n for n in names if n.startswith("leftImg8bit/")}
    assert len(images) == 8
    assert "leftImg8bit/train/ashford/ashford_000000_000001_leftImg8bit.png" in images
    assert "leftImg8bit/test/farrow/farrow_000000_000000_leftImg8bit.png" in images
    truth = {
        n.replace("leftImg8bit/", "gtFine/").replace("leftImg8bit.png", f"gtFine_{kind}")
        for n in images
        if "/test/" not in n
        for kind in ("instanceIds.png", "labelIds.png", "polygons.json")
    }
    assert names == images | truth


def test_cityscapes_files_hold_the_scene(cityscapes: Path) -> None:
    scene = draw_scene(RECIPE, "val", 1)
    truth = cityscapes / "gtFine/val/elwick/elwick_000000_000000_gtFine_instanceIds.png"
    read = cv2.imread(str(truth), cv2.IMREAD_UNCHANGED)
    assert read.dtype == np.uint16
    assert np.array_equal(read, scene.instances)
    image = cv2.imread(str(cityscapes / "leftImg8bit/val/elwick/elwick_000000_000000_leftImg8bit.png"))
    assert np.array_equal(image, scene.image)
    labels = cv2.imread(str(truth).replace("instanceIds", "labelIds"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(labels, scene.labels)


@pytest.mark.slow
def test_bytes_do_not_depend_on_processes(cityscapes: Path, tmp_path: Path) -> None:
    write_cityscapes(tmp_path, recipe=RECIPE, processes=2)
    assert files_of(tmp_path) == files_of(cityscapes)


def test_progress_counts_every_image(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    recipe = Recipe(train=2, val=1, test=0, height=64, width=64)
    write_cityscapes(tmp_path, recipe=recipe, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_voc_layout_and_boxes(tmp_path: Path) -> None:
    write_voc(tmp_path, recipe=RECIPE)
    folder = tmp_path / "VOC2007"
    lists = {p.stem: p.read_text().split() for p in (folder / "ImageSets/Main").iterdir()}
    assert {k: len(v) for k, v in lists.items()} == {"train": 5, "val": 2, "trainval": 7, "test": 1}
    assert sorted(p.stem for p in (folder / "JPEGImages").iterdir()) == sorted(
        lists["trainval"] + lists["test"]
    )
    scene = draw_scene(RECIPE, "train", 0)
    found = [
        tuple(int(node.findtext(f"bndbox/{t}") or 0) for t in ("xmin", "ymin", "xmax", "ymax"))
        for node in ET.parse(folder / "Annotations/000001.xml").iter("object")
    ]
    expected = []
    for item in scene.objects:
        if item.name != "truck":
            rows, cols = np.nonzero(scene.instances == item.instance_id)
            expected.append((cols.min() + 1, rows.min() + 1, cols.max() + 1, rows.max() + 1))
    assert found == expected


def test_coco_boxes_and_areas_are_those_of_the_masks(tmp_path: Path) -> None:
    write_coco(tmp_path, recipe=RECIPE)
    document = json.loads((tmp_path / "annotations/instances_train2017.json").read_text())
    test = json.loads((tmp_path / "annotations/image_info_test2017.json").read_text())
    assert "annotations" not in test
    assert [image["file_name"] for image in test["images"]] == ["000000000008.jpg"]
    assert [a["id"] for a in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
    scenes = [draw_scene(RECIPE, "train", index) for index in range(5)]
    areas = [item.visible_area for scene in scenes for item in scene.objects]
    assert [a["area"] for a in document["annotations"]] == pytest.approx(areas, rel=0.03)
    assert (tmp_path / "train2017/000000000005.jpg").is_file()


def test_run_lengths_by_hand() -> None:
    mask = np.array([[0, 1], [1, 1], [0, 0]], bool)
    # Down the columns: 0 1 0 | 1 1 0.
    assert run_lengths(mask) == {"counts": [1, 1, 1, 2, 1], "size": [3, 2]}


def test_run_lengths_start_with_zeros() -> None:
    assert run_lengths(np.ones((2, 2), bool))["counts"] == [0, 4]


@pytest.mark.parametrize("box", [(0, 0, 4, 3), (2, 1, 6, 5), (3, 3, 4, 8)])
def test_outline_of_a_rectangle_runs_along_its_pixel_edges(box: tuple[int, int, int, int]) -> None:
    x0, y0, x1, y1 = box
    mask = np.zeros((9, 8), bool)
    mask[y0:y1, x0:x1] = True
    (polygon,) = outlines(mask)
    assert {(x, y) for x, y in zip(polygon[::2], polygon[1::2], strict=True)} == {
        (x0, y0),
        (x1, y0),
        (x1, y1),
        (x0, y1),
    }
    decoded = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([polygon], 9, 8)))
    assert np.array_equal(decoded.astype(bool), mask)
