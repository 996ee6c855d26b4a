"""Reading a COCO-format annotation file: checks first, then columns.

Shapes: n images, m annotations.
Boxes: xywh float64 pixels of the original image, as COCO writes them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.data.datasets.index import Strings
from detector.data.naming import nearest
from detector.errors import DatasetError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CocoColumns:
    """One file as columns; annotations of unknown images are left out.

    Attributes:
        image_ids: (n,) int64, or texts.
        file_names: n names.
        sizes: (n, 2) int32 height, width.
        image_rows: (m,) int64 position of each annotation's image.
        category_ids: (m,) int64.
        boxes_xywh: (m, 4) float64.
        areas: (m,) float64.
        crowd: (m,) bool.
        ignore: (m,) bool, COCO's ``ignore`` flag.
        segmentations: m values as in the file.
        categories: name of every category id, in file order.
    """

    image_ids: NDArray[np.int64] | Strings
    file_names: Strings
    sizes: NDArray[np.int32]
    image_rows: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes_xywh: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    ignore: NDArray[np.bool_]
    segmentations: list[Any]
    categories: dict[int, str]


def read_json(path: Path) -> dict[str, Any]:
    """The file's content, or a DatasetError that says what is wrong with it."""
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError as error:
        place = _first_missing(path)
        raise DatasetError(
            f"{path}: the annotation file does not exist{place}. A COCO-format JSON file was expected. "
            "Prepare or convert the data set first, or correct ann_file and data_root."
        ) from error
    except IsADirectoryError as error:
        raise DatasetError(
            f"{path}: is a folder. ann_file must name a COCO-format JSON file in it."
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(
            f"{path}: is not JSON ({error}). A COCO-format JSON file was expected. "
            "If it was cut off while being written or downloaded, make it again."
        ) from error
    if not isinstance(content, dict):
        raise DatasetError(
            f"{path}: holds a {type(content).__name__}, not an object with 'images', 'annotations' and "
            "'categories'. If it is a list of detections, it is a result file, not ground truth."
        )
    return content


def _first_missing(path: Path) -> str:
    """Which folder on the way is missing, for the error."""
    for parent in reversed(path.parents):
        if not parent.exists():
            return f" (neither does the folder {parent})"
    return ""


def read_coco(
    path: Path,
    *,
    need_annotations: bool,
    file_name: Callable[[dict[str, Any]], str],
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> CocoColumns:
    """Read and check a COCO-format file.

    Args:
        path: the file.
        need_annotations: whether a missing 'annotations' list is an error (training) or means none (test
        splits).
        file_name: gives the file name of an entry of 'images'.
        prepare: turns the content of a related format into COCO's.

    Raises:
        DatasetError: names the file, the entry and what was expected.
    """
    content = prepare(read_json(path))
    wanted = ("images", "categories") + (("annotations",) if need_annotations else ())
    missing = [key for key in wanted if not isinstance(content.get(key), list)]
    if missing:
        raise DatasetError(
            f"{path}: has no list {' and no list '.join(map(repr, missing))} (found: "
            f"{', '.join(map(repr, content)) or 'nothing'}). A COCO-format file with 'images', "
            "'annotations' and 'categories' was expected. Check that ann_file names the right file."
        )
    if not content["images"]:
        raise DatasetError(
            f"{path}: the split is empty, its 'images' list has no entry. At least one image was expected. "
            "Check the split's list of images and convert it again."
        )
    images, annotations = content["images"], content.get("annotations") or []
    image_ids, names, sizes = _images(path, images, file_name)
    row_of = {image["id"]: i for i, image in enumerate(images)}
    if len(row_of) != len(images):
        raise DatasetError(
            f"{path}: {len(images) - len(row_of)} of {len(images)} images share their id with another. "
            "Ids must be unique. Convert the data again."
        )
    rows = np.array([row_of.get(_id(path, a, "annotations", "image_id"), -1) for a in annotations], np.int64)
    if (rows < 0).any():
        log.warning(
            "%s: %d annotations belong to no image of the file and are left out", path, int((rows < 0).sum())
        )
        annotations = [a for a, row in zip(annotations, rows, strict=True) if row >= 0]
        rows = rows[rows >= 0]
    boxes = _boxes(path, annotations)
    return CocoColumns(
        image_ids=image_ids,
        file_names=names,
        sizes=sizes,
        image_rows=rows,
        category_ids=np.array([_whole(path, a, "annotations", "category_id") for a in annotations], np.int64),
        boxes_xywh=boxes,
        areas=_areas(path, annotations, boxes),
        crowd=np.array([bool(a.get("iscrowd")) for a in annotations], bool),
        ignore=np.array([bool(a.get("ignore")) for a in annotations], bool),
        segmentations=[a.get("segmentation") for a in annotations],
        categories=_categories(path, content["categories"]),
    )


def entry_value(path: Path, entry: Any, section: str, key: str) -> Any:
    """``entry[key]``, or a DatasetError that names the entry."""
    try:
        return entry[key]
    except (KeyError, TypeError) as error:
        name = entry.get("id", "?") if isinstance(entry, dict) else repr(entry)
        raise DatasetError(
            f"{path}: the entry {name} of {section!r} has no {key!r}. COCO format needs it. Convert the "
            "data again."
        ) from error


def _wrong(path: Path, entry: Any, section: str, key: str, expected: str) -> DatasetError:
    """Error for a value of another kind."""
    return DatasetError(
        f"{path}: the entry {entry.get('id', '?')!r} of {section!r} has {key} {entry[key]!r}; expected "
        f"{expected}. Correct the entry, or convert the data again."
    )


def _whole(path: Path, entry: Any, section: str, key: str, least: int | None = None) -> int:
    """``entry[key]``, a whole number."""
    value = entry_value(path, entry, section, key)
    if type(value) is not int or (least is not None and value < least) or abs(value) >= 2**63:
        limit = "" if least is None else f" of at least {least}"
        raise _wrong(path, entry, section, key, f"a whole number{limit}")
    return value


def _id(path: Path, entry: Any, section: str, key: str) -> int | str:
    """``entry[key]``, an id: a whole number or a text."""
    value = entry_value(path, entry, section, key)
    if type(value) is str:
        return value
    if type(value) is not int or abs(value) >= 2**63:
        raise _wrong(path, entry, section, key, "a whole number or a text")
    return value


def _areas(path: Path, annotations: list[Any], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(m,) areas as stated, else those of the boxes."""
    for annotation in annotations:
        if not isinstance(annotation.get("area", 0), int | float):
            raise _wrong(path, annotation, "annotations", "area", "a number")
    return np.array([a.get("area", b[2] * b[3]) for a, b in zip(annotations, boxes, strict=True)], np.float64)


def _images(
    path: Path, images: list[Any], file_name: Callable[[dict[str, Any]], str]
) -> tuple[NDArray[np.int64] | Strings, Strings, NDArray[np.int32]]:
    ids = [_id(path, image, "images", "id") for image in images]
    names = Strings(file_name(image) for image in images)
    sizes = np.array(
        [[_whole(path, i, "images", key, least=1) for key in ("height", "width")] for i in images], np.int32
    )
    numeric = all(isinstance(i, int) for i in ids)
    return (np.array(ids, np.int64) if numeric else Strings(map(str, ids))), names, sizes


def _boxes(path: Path, annotations: list[Any]) -> NDArray[np.float64]:
    rows = [entry_value(path, a, "annotations", "bbox") for a in annotations]
    for annotation, row in zip(annotations, rows, strict=True):
        if not isinstance(row, list) or len(row) != 4 or not all(isinstance(v, int | float) for v in row):
            raise DatasetError(
                f"{path}: annotation {annotation.get('id', '?')} has bbox {row!r}; expected four numbers "
                "x, y, width, "
                "height. Correct the annotation."
            )
    boxes = np.array(rows, np.float64).reshape(-1, 4)
    bad = np.flatnonzero(~np.isfinite(boxes).all(axis=1))
    if len(bad):
        raise DatasetError(
            f"{path}: annotation {annotations[bad[0]].get('id', '?')} has bbox {rows[bad[0]]}; expected "
            "finite numbers "
            f"({len(bad)} such boxes). Correct the annotations."
        )
    return boxes


def _categories(path: Path, categories: list[Any]) -> dict[int, str]:
    found: dict[int, str] = {}
    for category in categories:
        name = str(entry_value(path, category, "categories", "name"))
        key = _whole(path, category, "categories", "id")
        if key in found or name in found.values():
            raise DatasetError(
                f"{path}: 'categories' lists id {key} or name {name!r} twice. Both must be unique. Correct "
                "the file."
            )
        found[key] = name
    return found


def map_classes(
    path: Path, categories: dict[int, str], class_names: tuple[str, ...], *, given: bool
) -> tuple[int, ...]:
    """The file's category id of every class, found by name.

    Args:
        path: annotation file, for the error.
        categories: name of every category id.
        class_names: the model's classes; position is the label.
        given: whether the config names them, or they are the dataset type's own.

    Raises:
        DatasetError: a class is not in the file; gives the nearest names.
    """
    ids = {name: key for key, name in categories.items()}
    unknown = [name for name in class_names if name not in ids]
    if unknown:
        source = (
            "classes of the config" if given else "the dataset type's own classes, as the config gives none"
        )
        first = ", ".join(f"{name!r}{nearest(name, ids)}" for name in unknown[:3])
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        listed = ", ".join(map(repr, list(ids)[:20])) + (", ..." if len(ids) > 20 else "")
        raise DatasetError(
            f"{path}: has no category named {first}{more} ({source}). Its {len(ids)} categories are "
            f"{listed or 'none'}. "
            "Set classes=(...) in every dataset of the config (and num_classes in the model) to names from "
            "this list."
        )
    return tuple(ids[name] for name in class_names)
