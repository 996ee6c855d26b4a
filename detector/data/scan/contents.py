"""A data set's annotations, read without stopping at mistakes.

Shapes: n images, m annotations.
Boxes: xywh float64 pixels of the original image, NaN where the file has no four numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.data.datasets.coco_file import read_json
from detector.data.scan.findings import Finding
from detector.errors import DatasetError

NO_BOX = (float("nan"),) * 4


@dataclass
class Contents:
    """One data set.

    Attributes:
        title: what the report calls it.
        images_dir: folder that the file names lie in; None when the files are not to be looked at.
        image_ids, names: n of each.
        sizes: (n, 2) stated height and width, NaN where absent.
        rows: (m,) position of each annotation's image.
        annotation_ids: m of them.
        category_ids: (m,) int64, -1 where it is no number.
        boxes: (m, 4) xywh.
        crowd: (m,) bool.
        segmentations: m values as in the file.
        categories: name of every category id.
        findings: what was found while reading.
        no_boxes: positions of annotations whose bbox is no list of four numbers.
        checked: False for a data set that is only compared with, by content.
    """

    title: str
    images_dir: Path | None
    image_ids: list[int | str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    sizes: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    annotation_ids: list[Any] = field(default_factory=list)
    category_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    boxes: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))
    crowd: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    segmentations: list[Any] = field(default_factory=list)
    categories: dict[int, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    no_boxes: set[int] = field(default_factory=set)
    checked: bool = True

    def find(self, kind: str, subject: str, detail: str, *, annotation: Any = None, row: int = -1) -> None:
        """Note a finding of this data set."""
        shown = annotation if isinstance(annotation, int | str) else None
        self.findings.append(Finding(kind, self.title, subject, detail, shown, row))


def read_coco_contents(path: Path, images_dir: Path | None, *, title: str | None = None) -> Contents:
    """Read a COCO-format file; wrong entries become findings.

    Raises:
        DatasetError: the file cannot be read, or lists no images.
    """
    content = read_json(path)
    if not isinstance(content.get("images"), list) or not content["images"]:
        raise DatasetError(
            f"{path}: found no list 'images' with entries (keys: {', '.join(map(repr, content)) or 'none'}); "
            "expected a COCO-format annotation file. Give one, a VOC folder or a config."
        )
    found = Contents(title or path.stem, images_dir)
    row_of = _read_images(found, content["images"])
    _read_categories(found, content.get("categories"))
    _read_annotations(found, content.get("annotations"), row_of)
    return found


def _read_images(found: Contents, entries: list[Any]) -> dict[Any, int]:
    """Fill the images; returns the row of every id."""
    sizes: list[tuple[float, float]] = []
    row_of: dict[Any, int] = {}
    for position, entry in enumerate(entries):
        key = entry.get("id") if isinstance(entry, dict) else None
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(key, int | str) or not isinstance(name, str) or not name:
            found.find(
                "malformed-entry",
                f"images[{position}]",
                f"found {_short(entry)}; expected a dict with id and file_name",
            )
            continue
        if key in row_of:
            first = found.names[row_of[key]]
            found.find("repeated-id", name, f"image id {key!r} is also that of {first}", row=len(found.names))
        row_of.setdefault(key, len(found.names))
        height, width = entry.get("height"), entry.get("width")
        if not (_is_size(height) and _is_size(width)):
            found.find(
                "malformed-entry",
                name,
                f"found width {width!r} and height {height!r}; expected whole numbers above 0",
                row=len(found.names),
            )
            height = width = float("nan")
        found.image_ids.append(key)
        found.names.append(name)
        sizes.append((height, width))
    found.sizes = np.array(sizes, np.float64).reshape(-1, 2)
    for name, count in Counter(found.names).items():
        if count > 1:
            found.find("repeated-name", name, f"listed {count} times")
    return row_of


def _read_categories(found: Contents, entries: Any) -> None:
    """Fill the categories."""
    for position, entry in enumerate(entries if isinstance(entries, list) else []):
        key, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
        place = f"categories[{position}]"
        if type(key) is not int or not isinstance(name, str):
            found.find("malformed-entry", place, f"found {_short(entry)}; expected a dict with id and name")
        elif key in found.categories:
            found.find("repeated-id", place, f"category id {key} is also that of {found.categories[key]!r}")
        else:
            if name in found.categories.values():
                found.find("malformed-entry", place, f"the name {name!r} belongs to another category as well")
            found.categories[key] = name
    if not found.categories:
        found.find("malformed-entry", "categories", "found none; expected a list of dicts with id and name")


def _read_annotations(found: Contents, entries: Any, row_of: dict[Any, int]) -> None:
    """Fill the annotations of listed images."""
    rows: list[int] = []
    categories: list[int] = []
    boxes: list[Sequence[float]] = []
    crowd: list[bool] = []
    for position, entry in enumerate(entries if isinstance(entries, list) else []):
        if not isinstance(entry, dict):
            found.find(
                "malformed-entry", f"annotations[{position}]", f"found {_short(entry)}; expected a dict"
            )
            continue
        image, key = entry.get("image_id"), entry.get("id")
        row = row_of.get(image) if isinstance(image, int | str) else None
        if row is None:
            found.find("unknown-image", f"image_id {image!r}", "no image has this id", annotation=key)
            continue
        category, box = entry.get("category_id"), entry.get("bbox")
        rows.append(row)
        categories.append(category if type(category) is int else -1)
        boxes.append(box if _is_box(box) else NO_BOX)  # type: ignore[arg-type]
        crowd.append(bool(entry.get("iscrowd")))
        found.annotation_ids.append(key)
        found.segmentations.append(entry.get("segmentation"))
        if boxes[-1] is NO_BOX:
            found.no_boxes.add(len(boxes) - 1)
            text = f"found bbox {_short(box)}; expected four numbers x, y, width, height"
            found.find("degenerate-box", found.names[row], text, annotation=key, row=row)
    found.rows = np.array(rows, np.int64)
    found.category_ids = np.array(categories, np.int64)
    found.boxes = np.array(boxes, np.float64).reshape(-1, 4)
    found.crowd = np.array(crowd, bool)


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and value >= 1 and value == int(value)
    )


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(isinstance(v, int | float) for v in value)


def _short(value: object, limit: int = 80) -> str:
    """A value for a message, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
