"""Cityscapes to COCO: hand-computed trees, a naive oracle, and every kind of bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from detector.data.converters.cityscapes_to_coco import convert, instance_annotations
from detector.errors import DatasetError

CATEGORIES = [
    (24, "person"), (25, "rider"), (26, "car"), (27, "truck"), (28, "bus"), (31, "train"), (32, "motorcycle"),
    (33, "bicycle"),
]  # fmt: skip


def write_frame(root: Path, split: str, stem: str, instances: np.ndarray[Any, Any] | None) -> None:
    city = stem.split("_")[0]
    image = np.zeros((4, 6, 3), np.uint8)
    (root / "leftImg8bit" / split / city).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"), image)
    if instances is None:
        return
    (root / "gtFine" / split / city).mkdir(parents=True, exist_ok=True)
    target = root / "gtFine" / split / city / f"{stem}_gtFine_instanceIds.png"
    cv2.imwrite(str(target), instances.astype(np.uint16))
    cv2.imwrite(str(target).replace("instanceIds", "labelIds"), np.zeros(instances.shape, np.uint8))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    first = np.full((4, 6), 7)
    first[1:3, 1:4] = 26001
    first[3, 0:2] = 26000
    first[0, 5] = 24
    first[3, 5] = 29000
    write_frame(tmp_path, "train", "bonn_000000_000001", first)
    write_frame(tmp_path, "train", "aachen_000000_000002", np.full((4, 6), 23))
    second = np.full((4, 6), 7)
    second[:, 0] = 33002
    write_frame(tmp_path, "train", "bonn_000000_000000", second)
    write_frame(tmp_path, "val", "celle_000000_000000", first)
    write_frame(tmp_path, "test", "dorsten_000000_000000", None)
    return tmp_path


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_files_and_their_names(tree: Path) -> None:
    written = convert(tree, out_dir=tree / "annotations")
    assert [p.name for p in written] == [
        f"instancesonly_filtered_gtFine_{split}.json" for split in ("train", "val", "test")
    ]
    assert all(p.parent == tree / "annotations" for p in written)


def test_default_place_is_the_root(tree: Path) -> None:
    assert convert(tree, splits=["val"]) == [tree / "instancesonly_filtered_gtFine_val.json"]


def test_images_sorted_with_ids_from_one(tree: Path) -> None:
    images = read(convert(tree)[0])["images"]
    assert images[0] == {
        "id": 1,
        "file_name": "aachen/aachen_000000_000002_leftImg8bit.png",
        "height": 4,
        "width": 6,
        "segm_file": "aachen/aachen_000000_000002_gtFine_labelIds.png",
    }
    assert [(i["id"], i["file_name"][:23]) for i in images[1:]] == [
        (2, "bonn/bonn_000000_000000"),
        (3, "bonn/bonn_000000_000001"),
    ]


def test_annotations_by_hand(tree: Path) -> None:
    annotations = read(convert(tree)[0])["annotations"]
    keys = ("id", "image_id", "category_id", "iscrowd", "area", "bbox")
    assert [tuple(a[k] for k in keys) for a in annotations] == [
        (1, 2, 33, 0, 4, [0.0, 0.0, 1.0, 4.0]),
        (2, 3, 24, 1, 1, [5.0, 0.0, 1.0, 1.0]),
        (3, 3, 26, 0, 2, [0.0, 3.0, 2.0, 1.0]),
        (4, 3, 26, 0, 6, [1.0, 1.0, 3.0, 2.0]),
    ]
    assert set(annotations[0]) == {*keys, "segmentation"}
    decoded = coco_mask.decode({"size": [4, 6], "counts": annotations[3]["segmentation"]["counts"].encode()})
    assert np.argwhere(decoded).tolist() == [[y, x] for y in (1, 2) for x in (1, 2, 3)]


def test_categories_in_label_table_order(tree: Path) -> None:
    assert read(convert(tree)[1])["categories"] == [{"id": i, "name": name} for i, name in CATEGORIES]


def test_test_split_without_ground_truth_has_images_only(tree: Path) -> None:
    document = read(convert(tree)[2])
    assert set(document) == {"images", "categories"}
    assert document["images"] == [
        {"id": 1, "file_name": "dorsten/dorsten_000000_000000_leftImg8bit.png", "height": 4, "width": 6}
    ]


def test_test_split_with_dummy_ground_truth_has_no_annotations_key(tree: Path) -> None:
    write_frame(tree, "test", "dorsten_000000_000000", np.full((4, 6), 3))
    document = read(convert(tree)[2])
    assert "annotations" not in document
    assert document["images"][0]["segm_file"] == "dorsten/dorsten_000000_000000_gtFine_labelIds.png"


def test_notes_count_what_came_in_and_went_out(tree: Path) -> None:
    lines: list[str] = []
    convert(tree, note=lines.append)
    assert (
        "train: 3 images found, 3 written; 5 instances found, 4 written (1 of them groups), left out"
        in lines[0]
    )
    assert "1 trailer" in lines[0] or "1 caravan" in lines[0]
    assert "test: 1 images found, 1 written, no ground truth" in lines[2]


def test_missing_split_is_noted_and_skipped(tree: Path) -> None:
    lines: list[str] = []
    written = convert(tree, splits=["val", "night"], note=lines.append)
    assert len(written) == 1
    assert lines[1] == f"night: no images in {tree / 'leftImg8bit' / 'night'}, skipped"


def test_progress_over_all_splits(tree: Path) -> None:
    calls: list[tuple[int, int]] = []
    convert(tree, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i, 5) for i in range(1, 6)]


@pytest.mark.slow
def test_same_files_from_two_processes(tree: Path) -> None:
    one = [p.read_bytes() for p in convert(tree, out_dir=tree / "one")]
    two = [p.read_bytes() for p in convert(tree, out_dir=tree / "two", nproc=2)]
    assert one == two


def naive(instances: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """The full-frame comparison per instance that the converter avoids."""
    kept = {i for i, _ in CATEGORIES}
    out = []
    for value in np.unique(instances[instances >= 24]).tolist():
        label = value // 1000 if value >= 1000 else value
        if label in kept:
            rle = coco_mask.encode(np.asfortranarray((instances == value).astype(np.uint8)))
            bbox = coco_mask.toBbox(rle).tolist()
            out.append((label, int(value < 1000), int(coco_mask.area(rle)), bbox, rle["counts"].decode()))
    return out


VALUES = [0, 7, 23, 24, 26, 26000, 26001, 29000, 30, 33012]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.data())
def test_runs_equal_full_frame_encoding(height: int, width: int, data: st.DataObject) -> None:
    cells = st.lists(st.sampled_from(VALUES), min_size=height * width, max_size=height * width)
    instances = np.array(data.draw(cells), np.uint16).reshape(height, width)
    annotations, _ = instance_annotations(instances)
    found = [
        (a["category_id"], a["iscrowd"], a["area"], a["bbox"], a["segmentation"]["counts"])
        for a in annotations
    ]
    assert found == naive(instances)


def test_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match="leftImg8bit: found nothing, expected the folder of Cityscapes images"
    ):
        convert(tmp_path)


def test_no_image_at_all(tmp_path: Path) -> None:
    (tmp_path / "leftImg8bit").mkdir()
    with pytest.raises(DatasetError, match="expected at least one split"):
        convert(tmp_path)


def test_train_without_ground_truth_folder(tree: Path) -> None:
    (tree / "gtFine" / "val").rename(tree / "elsewhere")
    with pytest.raises(DatasetError, match=r"gtFine/val: found nothing.*Extract gtFine_trainvaltest\.zip"):
        convert(tree)


@pytest.mark.parametrize("kind", ["instanceIds", "labelIds"])
def test_missing_partner(tree: Path, kind: str) -> None:
    (tree / f"gtFine/val/celle/celle_000000_000000_gtFine_{kind}.png").unlink()
    with pytest.raises(
        DatasetError, match=rf"1 problem: .*has no partner .*celle_000000_000000_gtFine_{kind}"
    ):
        convert(tree)


def test_all_problems_are_named_together(tree: Path) -> None:
    (tree / "gtFine/train/bonn/bonn_000000_000000_gtFine_labelIds.png").unlink()
    broken = tree / "gtFine/train/bonn/bonn_000000_000001_gtFine_instanceIds.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(
        DatasetError, match=r"2 problems: .*has no partner.*000001_gtFine_instanceIds.png cannot be read"
    ):
        convert(tree)


def test_size_mismatch(tree: Path) -> None:
    write_frame(tree, "val", "celle_000000_000000", np.full((4, 5), 7))
    with pytest.raises(DatasetError, match=r"is 5 x 4 but its image is 6 x 4 \(wide x high\)"):
        convert(tree)


def test_unreadable_image(tree: Path) -> None:
    (tree / "leftImg8bit/test/dorsten/dorsten_000000_000000_leftImg8bit.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"dorsten_000000_000000_leftImg8bit\.png cannot be read"):
        convert(tree)


def test_other_png_in_a_city_folder(tree: Path) -> None:
    cv2.imwrite(str(tree / "leftImg8bit/val/celle/preview.png"), np.zeros((2, 2), np.uint8))
    with pytest.raises(DatasetError, match=r"preview\.png: found a PNG of another kind"):
        convert(tree)


def test_nothing_half_written_on_an_error(tree: Path) -> None:
    write_frame(tree, "train", "bonn_000000_000001", np.full((4, 5), 7))
    with pytest.raises(DatasetError):
        convert(tree, out_dir=tree / "out")
    assert not (tree / "out").exists()
