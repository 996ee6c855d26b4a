"""A COCO annotation file as the evaluation and the submissions need it: read, checked, mapped to class names.

Boxes: xywh, absolute pixels of the original image, as the file holds them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from detector.collector import collector_paused
from detector.errors import DatasetError
from detector.naming import close_names
from detector.structures import masks
from detector.structures.samples import Detections

ImageId = int | str
#: what to do about a split without ground truth, where results are at hand
INSTEAD = "Use --split val to measure, or --format-only to write files for its server."


@dataclass(frozen=True)
class AnnotationFile:
    """The parts of one file.

    Attributes:
        path: where it was read from.
        images: image records (id, file_name, height, width) by id, in file order.
        categories: category id by name, in file order.
        category_records: the whole records by name.
        annotations: the objects; empty for a test split.
    """

    path: Path
    images: dict[ImageId, dict[str, Any]]
    categories: dict[str, int]
    annotations: list[dict[str, Any]]
    category_records: dict[str, dict[str, Any]] = field(default_factory=dict)

    def category_ids(self, class_names: Sequence[str]) -> list[int]:
        """The file's category id of each class, matched by name.

        Raises:
            DatasetError: a class is not in the file.
        """
        for name in class_names:
            if name not in self.categories:
                near = close_names(name, self.categories, count=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise DatasetError(
                    f"{self.path}: found categories {_listed(self.categories)}, expected one named "
                    f"'{name}'{hint} Set the config's `classes` to names of the file, or use the annotation "
                    "file of this data set."
                )
        return [self.categories[name] for name in class_names]

    def image_hw(self, image_id: ImageId) -> tuple[int, int]:
        """(height, width) of an image as the file states it.

        Raises:
            DatasetError: the file does not state it.
        """
        image = self.images[image_id]
        if "height" not in image or "width" not in image:
            raise DatasetError(
                f"{self.path}: image {image_id} has no height and width, which masks and checks need"
            )
        return int(image["height"]), int(image["width"])

    def truth(self, image_id: ImageId, class_names: Sequence[str], *, with_masks: bool = False) -> Detections:
        """The objects of one image that are not crowds, as detections with score 1."""
        label = {category_id: i for i, category_id in enumerate(self.category_ids(class_names))}
        found = [
            a
            for a in self.annotations
            if a["image_id"] == image_id and a["category_id"] in label and not a.get("iscrowd")
        ]
        xywh = torch.tensor([a["bbox"] for a in found], dtype=torch.float32).reshape(-1, 4)
        rles = None
        if with_masks:
            size = self.image_hw(image_id)
            rles = [
                masks.from_segmentation(a.get("segmentation"), size, where=f"{a.get('id')}") for a in found
            ]
        return Detections(
            boxes=torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1),
            scores=torch.ones(len(found)),
            labels=torch.tensor([label[a["category_id"]] for a in found], dtype=torch.int64),
            masks=rles,
        )


def read_annotations(path: str | Path) -> AnnotationFile:
    """Read a COCO annotation file.

    Raises:
        DatasetError: the file is missing, not JSON, or lacks images or categories.
    """
    path = Path(path)
    with collector_paused():
        return _read(path)


def _read(path: Path) -> AnnotationFile:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path}: found no such file, expected a COCO annotation file; convert the data first"
        ) from error
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path}: found a file that cannot be read as JSON ({error}), expected COCO annotations"
        ) from error
    if not isinstance(content, Mapping) or "images" not in content or "categories" not in content:
        raise DatasetError(f"{path}: expected a JSON object with `images` and `categories` (COCO format)")
    return AnnotationFile(
        path=path,
        images={image["id"]: image for image in content["images"]},
        categories={category["name"]: category["id"] for category in content["categories"]},
        annotations=list(content.get("annotations") or ()),
        category_records={category["name"]: category for category in content["categories"]},
    )


def read_truth(path: str | Path, *, instead: str = INSTEAD) -> AnnotationFile:
    """Read a COCO annotation file that must hold ground truth.

    Args:
        path: the file.
        instead: what the message tells the user to do without it.

    Raises:
        DatasetError: as ``read_annotations``, or there are no annotations.
    """
    file = read_annotations(path)
    if not file.annotations:
        raise DatasetError(
            f"{file.path}: found no object, as it has no annotations; expected ground truth to compare "
            f"with. This looks like a test split. {instead}"
        )
    return file


def _listed(names: Mapping[str, int], limit: int = 12) -> str:
    """Names for a message, the first few of many."""
    shown = ", ".join(list(names)[:limit])
    return f"{shown}, … ({len(names)} in all)" if len(names) > limit else shown
