"""What goes into a converter comes out of its file: random objects there and back."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from detector.data.converters import cityscapes_to_coco, voc_to_coco
from detector.data.synthetic.coco import outlines
from detector.structures import masks

NAMES = ("red cell", "white", "T & A", "<plate>")
WIDTH, HEIGHT = 40, 30


@st.composite
def voc_objects(draw: st.DrawFn) -> list[tuple[str, tuple[float, ...], int]]:
    """Objects with an area; every third coordinate is no whole number."""
    found = []
    for _ in range(draw(st.integers(0, 6))):
        step = draw(st.sampled_from([1.0, 1.0, 0.25]))
        x1, x2 = draw(st.lists(st.integers(1, WIDTH), min_size=2, max_size=2, unique=True).map(sorted))
        y1, y2 = draw(st.lists(st.integers(1, HEIGHT), min_size=2, max_size=2, unique=True).map(sorted))
        box = (x1 * step, y1 * step, x2 * step, y2 * step)
        found.append((draw(st.sampled_from(NAMES)), box, draw(st.integers(0, 1))))
    return found


def write_voc(root: Path, images: list[list[tuple[str, tuple[float, ...], int]]]) -> None:
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text("".join(f"i{n}\n" for n in range(len(images))))
    _, picture = cv2.imencode(".png", np.zeros((HEIGHT, WIDTH), np.uint8))
    for n, objects in enumerate(images):
        (root / f"JPEGImages/i{n}.png").write_bytes(picture.tobytes())
        text = ""
        for name, box, difficult in objects:
            corners = "".join(
                f"<{t}>{v:g}</{t}>" for t, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
            )
            text += (
                f"<object><name>{escape(name)}</name><difficult>{difficult}</difficult>"
                f"<bndbox>{corners}</bndbox></object>"
            )
        (root / f"Annotations/i{n}.xml").write_text(f"<annotation>{text}</annotation>")


@settings(max_examples=30, deadline=None)
@given(st.lists(voc_objects(), min_size=1, max_size=3))
def test_voc_objects_come_back_from_the_coco_file(images: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_voc(Path(folder), images)
        (path,) = voc_to_coco.convert(folder, classes=NAMES)
        document = json.loads(path.read_text())
    names = {c["id"]: c["name"] for c in document["categories"]}
    assert [a["id"] for a in document["annotations"]] == list(range(1, sum(map(len, images)) + 1))
    for image_id, objects in enumerate(images, start=1):
        back = []
        for a in document["annotations"]:
            if a["image_id"] == image_id:
                x, y, w, h = a["bbox"]
                assert a["area"] == w * h
                back.append((names[a["category_id"]], (x + 1, y + 1, x + w + 1, y + h + 1), a["iscrowd"]))
        assert back == sorted(objects, key=lambda o: o[2])


@st.composite
def painted_maps(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """An instance map as Cityscapes makes it: polygons painted over one another."""
    pixels = np.full((HEIGHT, WIDTH), 7, np.uint16)
    point = st.tuples(st.integers(-3, WIDTH + 2), st.integers(-3, HEIGHT + 2))
    for serial in range(draw(st.integers(1, 6))):
        value = draw(st.sampled_from([24000 + serial, 26000 + serial, 33000 + serial, 26, 29000, 23, 4]))
        corners = draw(st.lists(point, min_size=3, max_size=8))
        cv2.fillPoly(pixels, [np.array(corners, np.int32)], value)
    return pixels


@settings(max_examples=60, deadline=None)
@given(painted_maps())
def test_cityscapes_polygons_come_back_from_the_run_lengths(instances: np.ndarray[Any, Any]) -> None:
    annotations, _ = cityscapes_to_coco.instance_annotations(instances)
    rebuilt = np.zeros_like(instances)
    for a in annotations:
        counts = a["segmentation"]["counts"]
        mask = coco_mask.decode({"size": [HEIGHT, WIDTH], "counts": counts.encode()}).astype(bool)
        value = np.unique(instances[mask])
        assert len(value) == 1
        rebuilt[mask] = value[0]
        ys, xs = np.nonzero(mask)
        assert a["area"] == len(xs)
        assert a["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        assert (a["iscrowd"], a["category_id"]) == (
            int(value[0] < 1000),
            value[0] // (1 if value[0] < 1000 else 1000),
        )
    kept = np.isin(
        np.where(instances >= 1000, instances // 1000, instances), [24, 25, 26, 27, 28, 31, 32, 33]
    )
    np.testing.assert_array_equal(rebuilt, np.where(kept, instances, 0))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 20), st.integers(1, 12), st.integers(1, 9)),
        min_size=1,
        max_size=4,
    )
)
def test_a_mask_without_holes_comes_back_from_its_polygons(
    rectangles: list[tuple[int, int, int, int]],
) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for x, y, w, h in rectangles:
        mask[y : y + h, x : x + w] = 1
    filled = mask.copy()
    found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(filled, found, -1, 1, cv2.FILLED)
    rle = masks.from_segmentation(outlines(filled.astype(bool)), (HEIGHT, WIDTH))
    np.testing.assert_array_equal(masks.decode(rle), filled)
