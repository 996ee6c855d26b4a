"""COCO panoptic to semantic maps, and the check of COCO-stuff's: hand-made pictures, and every bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.cli import main
from detector.data.converters import panoptic_to_semantic as panoptic
from detector.data.converters import stuff_maps
from detector.errors import DatasetError

# A car (3) in two segments of several bytes, a tree (184), and nothing in the corner.
IDS = np.array([[70000, 70000, 0], [70000, 300, 300], [5, 5, 5]], np.uint32)
SEGMENTS = [{"id": 70000, "category_id": 3}, {"id": 300, "category_id": 3}, {"id": 5, "category_id": 184}]
CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1},
    {"id": 3, "name": "car", "isthing": 1},
    {"id": 184, "name": "tree-merged", "isthing": 0},
]


def write(root: Path, *, ids: Any = IDS, **changes: Any) -> Path:
    """A panoptic file of one picture, and its folder."""
    (root / "panoptic_val2017").mkdir(exist_ok=True)
    picture = panoptic.segment_picture(ids)
    cv2.imwrite(str(root / "panoptic_val2017" / "000000000139.png"), picture[:, :, ::-1])
    entry = {"image_id": 139, "file_name": "000000000139.png", "segments_info": SEGMENTS}
    document: dict[str, Any] = {
        "images": [{"id": 139, "file_name": "000000000139.jpg", "height": 3, "width": 3}],
        "annotations": [{**entry, **changes.pop("entry", {})}],
        "categories": CATEGORIES,
    }
    path = root / "panoptic_val2017.json"
    path.write_text(json.dumps({**document, **changes}))
    return path


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("contiguous", [[1, 1, 255], [1, 1, 1], [2, 2, 2]]),
        ("category", [[2, 2, 255], [2, 2, 2], [183, 183, 183]]),
    ],
)
def test_map_by_hand(tmp_path: Path, values: str, expected: list[list[int]]) -> None:
    (path,) = panoptic.convert(write(tmp_path), out_dir=tmp_path / "out", values=values)
    assert path == tmp_path / "out" / "000000000139.png"
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert (pixels.dtype, pixels.tolist()) == (np.uint8, expected)


def test_what_the_command_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["convert", "panoptic2semantic", str(write(tmp_path)), "-o", str(out)]) == 0
    assert capsys.readouterr().out == (
        "1 images found, 1 written; 3 segments found, 3 written, of 2 of 3 categories, values 0 to 2 and 255 "
        f"-> {out}\n"
    )


PIXEL = st.integers(0, 2**24 - 1)


@given(st.lists(st.lists(PIXEL, min_size=3, max_size=3), min_size=1, max_size=4))
def test_ids_survive_the_picture(ids: list[list[int]]) -> None:
    assert panoptic.segment_ids(panoptic.segment_picture(ids)).tolist() == ids


@settings(max_examples=50)
@given(st.lists(st.lists(st.sampled_from([0, 1, 256, 65536, 2**24 - 1]), min_size=4, max_size=4), min_size=1))
def test_a_map_has_the_category_of_every_pixel(ids: list[list[int]]) -> None:
    segments = {id_: id_ % 7 + 1 for row in ids for id_ in row if id_}
    table = {category: category * 10 for category in range(1, 8)}
    found, problems = panoptic.semantic_map(np.array(ids, np.uint32), segments, table)
    assert problems == []
    assert found.tolist() == [[table[segments[i]] if i else 255 for i in row] for row in ids]


LISTED = [{"id": 70000, "category_id": 3}, {"id": 300, "category_id": 3}]
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "segment not listed": ({"entry": {"segments_info": LISTED}}, "segment 5 of the picture is not in"),
    "segment without pixels": (
        {"entry": {"segments_info": [*SEGMENTS, {"id": 9, "category_id": 1}]}},
        "segment 9 of segments_info has no pixel",
    ),
    "listed twice": ({"entry": {"segments_info": [*SEGMENTS, SEGMENTS[0]]}}, "segment 70000 is listed twice"),
    "unknown category": ({"categories": CATEGORIES[:2]}, "segment 5 has unknown category 184"),
    "missing picture": ({"entry": {"file_name": "x.png"}}, "x.png is missing"),
    "another size": (
        {"images": [{"id": 139, "height": 3, "width": 4}]},
        "is 3 x 3, but its image is 4 x 3",
    ),
    "category twice": ({"categories": [CATEGORIES[0]] * 2}, "a category id is listed twice"),
    "no category": ({"categories": []}, "found 0 categories"),
    "instances file": ({"annotations": [{"id": 1, "image_id": 139}]}, "not COCO panoptic .KeyError"),
    "annotations lost": ({"annotations": None}, "not COCO panoptic .TypeError"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), BAD.values(), ids=BAD)
def test_bad_panoptic_input_is_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        panoptic.convert(write(tmp_path, **changes), out_dir=tmp_path / "out")


def test_two_hundred_categories_fit_only_from_zero(tmp_path: Path) -> None:
    categories = [*CATEGORIES, {"id": 300, "name": "x"}]
    path = write(tmp_path, categories=categories)
    assert panoptic.convert(path, out_dir=tmp_path / "out")
    with pytest.raises(DatasetError, match=r"\[300\] do not fit into 8 bits.*--values contiguous"):
        panoptic.convert(path, out_dir=tmp_path / "out", values="category")


@pytest.mark.parametrize("damage", ["cut", "flipped", "grey"])
def test_a_damaged_picture_is_named(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path)
    picture = tmp_path / "panoptic_val2017" / "000000000139.png"
    data = bytearray(picture.read_bytes())
    if damage == "grey":
        cv2.imwrite(str(picture), np.zeros((3, 3), np.uint8))
    else:
        data[data.index(b"IDAT") + 8] ^= 1
        picture.write_bytes(bytes(data) if damage == "flipped" else bytes(data[:60]))
    words = "has 1 channels, expected 3" if damage == "grey" else "cannot be read"
    with pytest.raises(DatasetError, match=rf"000000000139\.png {words}"):
        panoptic.convert(path, out_dir=tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing.json", "found nothing, expected a COCO panoptic json"),
        ("lonely.json", "lonely: found nothing"),
    ],
)
def test_missing_files_are_named(tmp_path: Path, name: str, words: str) -> None:
    write(tmp_path).rename(tmp_path / "lonely.json")
    with pytest.raises(DatasetError, match=words):
        panoptic.convert(tmp_path / name, out_dir=tmp_path / "out")


# --- COCO-stuff's maps --------------------------------------------------------------------------------------


def stuff(root: Path, pixels: Any, *, name: str = "000000000139.png") -> list[str]:
    """A folder of one map and the file of its image; returns the command's words."""
    (root / "train2017").mkdir(exist_ok=True)
    cv2.imwrite(str(root / "train2017" / name), np.asarray(pixels))
    images = [{"id": 139, "file_name": "train2017/000000000139.jpg", "height": 2, "width": 3}]
    (root / "instances.json").write_text(json.dumps({"images": images}))
    return ["convert", "stuffthingmaps", str(root / "train2017"), str(root / "instances.json")]


def test_sound_maps_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = stuff(tmp_path, np.array([[0, 181, 255], [7, 7, 7]], np.uint8))
    cv2.imwrite(str(tmp_path / "train2017" / "other.png"), np.zeros((2, 3), np.uint8))
    assert main(words) == 0
    assert capsys.readouterr().out == (
        "1 images listed, 1 maps found; 3 classes, values 0 to 181 and 255; 1 other PNG files\n"
    )


@pytest.mark.parametrize(
    ("pixels", "name", "words"),
    [
        (np.full((2, 3), 182, np.uint8), "000000000139.png", r"holds \[182\], expected 0 to 181 and 255"),
        (np.zeros((3, 2), np.uint8), "000000000139.png", "is 2 x 3, but its image is 3 x 2"),
        (np.zeros((2, 3), np.uint16), "000000000139.png", "has 16 bits, expected 8"),
        (np.zeros((2, 3, 3), np.uint8), "000000000139.png", "has 3 channels, expected 1"),
        (np.zeros((2, 3), np.uint8), "139.png", "000000000139.png is missing"),
    ],
    ids=["value", "size", "bits", "channels", "missing"],
)
def test_bad_maps_are_named(tmp_path: Path, pixels: Any, name: str, words: str) -> None:
    stuff(tmp_path, pixels, name=name)
    with pytest.raises(DatasetError, match=words):
        stuff_maps.check(tmp_path / "train2017", tmp_path / "instances.json")


@pytest.mark.parametrize(
    ("folder", "annotations", "words"),
    [
        ("val2017", "instances.json", "found nothing, expected a folder of semantic maps"),
        ("train2017", "no.json", "found nothing, expected a COCO json"),
        ("train2017", "list.json", "not COCO's .TypeError"),
    ],
)
def test_missing_places_are_named(tmp_path: Path, folder: str, annotations: str, words: str) -> None:
    stuff(tmp_path, np.zeros((2, 3), np.uint8))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(DatasetError, match=words):
        stuff_maps.check(tmp_path / folder, tmp_path / annotations)


def test_maps_of_a_panoptic_file_pass_the_check(tmp_path: Path) -> None:
    path = write(tmp_path)
    panoptic.convert(path, out_dir=tmp_path / "maps")
    lines: list[str] = []
    stuff_maps.check(tmp_path / "maps", path, num_classes=3, note=lines.append)
    assert lines == ["1 images listed, 1 maps found; 2 classes, values 1 to 2 and 255"]
