"""Small COCO-format data sets on disk, sound or with one of every mistake."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from detector.data.scan.contents import Contents, read_coco_contents


def pixels(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    """A smooth picture that no other seed resembles."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 6), None, 0, 255, cv2.NORM_MINMAX)


def rectangle(x: float, y: float, w: float, h: float) -> list[list[float]]:
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


@dataclass
class Tree:
    """An image folder and an annotation file."""

    root: Path
    content: dict[str, Any] = field(
        default_factory=lambda: {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    )

    @property
    def images(self) -> Path:
        return self.root / "images"

    def image(self, name: str, data: bytes | None = None, *, seed: int | None = None, **more: Any) -> int:
        """List an image and write its file (JPEG of a picture of its own, unless told otherwise)."""
        key = len(self.content["images"]) + 1
        self.images.mkdir(parents=True, exist_ok=True)
        if data is None:
            data = cv2.imencode(Path(name).suffix, pixels(key if seed is None else seed))[1].tobytes()
        (self.images / name).write_bytes(data)
        self.content["images"].append({"id": key, "file_name": name, "height": 60, "width": 80, **more})
        return key

    def box(self, image: Any, xywh: Any = (10.0, 10.0, 20.0, 30.0), **more: Any) -> int:
        key = len(self.content["annotations"]) + 1
        entry = {"id": key, "image_id": image, "category_id": 1, "bbox": xywh, "iscrowd": 0}
        if isinstance(xywh, tuple):
            entry |= {"bbox": list(xywh), "segmentation": rectangle(*xywh), "area": xywh[2] * xywh[3]}
        self.content["annotations"].append({**entry, **more})
        return key

    def write(self, name: str = "train.json") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.content))
        return path


def contents_of(train: Tree, val: Tree) -> list[Contents]:
    """Both as data sets to scan, the second to compare with only."""
    sets = [
        read_coco_contents(t.write(f"{n}.json"), t.images, title=n)
        for t, n in ((train, "train"), (val, "val"))
    ]
    sets[1].checked = False
    return sets


def jpeg(seed: int) -> bytes:
    return bytes(cv2.imencode(".jpg", pixels(seed), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())


def turned_jpeg(path: Path, seed: int, orientation: int) -> bytes:
    """A JPEG whose EXIF says that it lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed)[:, :, ::-1].copy()).save(path, "JPEG", exif=exif)
    return path.read_bytes()


def with_broken_middle(data: bytes) -> bytes:
    """The same length, a stretch in the middle turned over."""
    out = bytearray(data)
    for i in range(len(out) // 2, len(out) // 2 + 12):
        out[i] ^= 0x55
    return bytes(out)


def spoil_files(train: Tree) -> None:
    train.box(train.image("missing.jpg"))
    (train.images / "missing.jpg").unlink()
    train.box(train.image("cut.jpg", jpeg(100)[:-400]))
    train.box(train.image("text.jpg", b"<html>404 not found</html>"))
    train.box(train.image("empty.jpg", b""))
    train.box(train.image("broken.jpg", with_broken_middle(jpeg(102))))
    train.box(train.image("wrong_size.jpg", height=61))
    train.box(
        train.image("turned.jpg", turned_jpeg(train.images / "turned.jpg", 103, 6), height=80, width=60)
    )
    train.box(train.image("half.jpg", turned_jpeg(train.images / "half.jpg", 104, 3)))
    train.box(train.image("leak.jpg", jpeg(101)))
    train.box(train.image("once.jpg", jpeg(105)))
    train.box(train.image("twice.jpg", jpeg(105)))
    smaller = cv2.resize(pixels(1), (40, 30), interpolation=cv2.INTER_AREA)
    small = train.image("near.png", cv2.imencode(".png", smaller)[1].tobytes(), height=30, width=40)
    train.box(small, (5.0, 5.0, 20.0, 20.0))


def spoil_annotations(train: Tree) -> None:
    image = train.image("boxes.jpg")
    for box in ((5.0, 5.0, 0.0, 10.0), (5.0, 5.0, 10.0, -3.0), (float("nan"), 1.0, 5.0, 5.0)):
        train.box(image, box, segmentation=None)
    train.box(image, [1, 2, 3])
    train.box(image, (5.0, 5.0, 0.5, 10.0), segmentation=None)
    train.box(image, (100.0, 5.0, 10.0, 10.0))
    train.box(image, (70.0, 5.0, 15.0, 10.0))
    train.box(image, (60.0, 5.0, 20.4, 10.0))  # by rounding only: no finding
    train.box(image, (30.0, 30.0, 20.0, 20.0), segmentation=rectangle(30, 30, 20, 10))
    train.box(image, (31.0, 31.0, 20.0, 20.0), segmentation=rectangle(31, 31, 19, 20))  # close enough
    train.box(image, (32.0, 32.0, 20.0, 20.0), segmentation=[[1, 2, 3, 4]])
    train.box(image, (33.0, 33.0, 20.0, 20.0), segmentation={"size": [60, 80], "counts": [1, 2]})
    first = train.box(image, (34.0, 34.0, 9.0, 9.0))
    train.box(image, (34.0, 34.0, 9.0, 9.0))
    assert first
    train.box(image, (35.0, 35.0, 9.0, 9.0), category_id=9)
    train.box(999)
    train.box(image, (36.0, 36.0, 9.0, 9.0), id=1)
    train.box(image, (37.0, 37.0, 9.0, 9.0), id=0)
    train.image("nothing.jpg")


def spoil_entries(train: Tree) -> None:
    train.content["images"].append({"id": 700})
    train.content["images"].append({"id": 701, "file_name": "good0.jpg", "height": 60, "width": 80})
    train.box(701, (1.0, 1.0, 5.0, 5.0), id=701)
    train.image("no_width.jpg", width=None)
    train.box(len(train.content["images"]), (2.0, 2.0, 5.0, 5.0), id=702)
    train.content["annotations"].append("not a dict")
