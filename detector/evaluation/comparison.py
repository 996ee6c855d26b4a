"""What one metric compares, in the COCO API's form: truth and detections, selected, checked, renumbered.

Ids are renumbered from 1 in memory, because COCO matching takes an annotation with id 0 for "no match". Mask
results carry the tight box of their mask, so that their area (small, medium, large) is the mask's.

Boxes: xywh, absolute pixels of the original image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detector.errors import DatasetError
from detector.evaluation.annotations import INSTEAD, AnnotationFile, ImageId
from detector.evaluation.results import box_records, segm_records
from detector.structures import masks
from detector.structures.samples import Detections


@dataclass(frozen=True)
class Comparison:
    """One metric's input.

    Attributes:
        metric: 'bbox', 'segm' or 'proposal'.
        images: {id, height, width}, numbered from 1 in the order of the file's ids.
        category_ids: the file's, ascending; 1 alone for proposals.
        truth: annotation records of these categories, ids from 1.
        detections: result records, ids from 1.
        numbers: number of each image by its id in the file.
    """

    metric: str
    images: list[dict[str, Any]]
    category_ids: list[int]
    truth: list[dict[str, Any]]
    detections: list[dict[str, Any]]
    numbers: Mapping[ImageId, int]

    @property
    def kind(self) -> str:
        """The overlap to measure: 'bbox' or 'segm'."""
        return "segm" if self.metric == "segm" else "bbox"

    def dataset(self, annotations: list[dict[str, Any]]) -> dict[str, Any]:
        """A COCO dataset dict around some annotations."""
        categories = [{"id": i, "name": str(i)} for i in self.category_ids]
        return {"info": {}, "images": self.images, "categories": categories, "annotations": annotations}


def pose(
    metric: str, file: AnnotationFile, class_names: Sequence[str], results: Mapping[ImageId, Detections]
) -> Comparison:
    """Select, check and renumber what one metric compares.

    Raises:
        DatasetError: the file lacks a class or a mask, holds no object to find, or the results do not fit it.
    """
    wanted = sorted(file.category_ids(class_names))
    if len(set(wanted)) != len(class_names):
        raise DatasetError(f"{file.path}: found classes {list(class_names)}, expected each category once")
    foreign = [image_id for image_id in results if image_id not in file.images]
    if foreign:
        raise DatasetError(
            f"{file.path}: found results for image {foreign[0]!r} ({len(foreign)} such), expected ids of "
            "this file; the results belong to another split or annotation file"
        )
    require_objects(file, class_names)
    number = {image_id: i for i, image_id in enumerate(sorted(file.images), start=1)}  # type: ignore[type-var]
    images = [{"id": n, **_size(file.images[image_id])} for image_id, n in number.items()]
    truth = _truth(metric, file, set(wanted), number)
    detections = _records(metric, file, file.category_ids(class_names), results, number)
    if metric == "proposal":  # one class: without labels, objects in the order of their categories
        truth = sorted(truth, key=lambda record: int(record["category_id"]))
        for record in (*truth, *detections):
            record["category_id"] = 1
        wanted = [1]
    return Comparison(metric, images, wanted, _numbered(truth), _numbered(detections), number)


def require_objects(file: AnnotationFile, class_names: Sequence[str], *, instead: str = INSTEAD) -> None:
    """Raise where there is nothing to find, for which COCO's metrics would all be -1.

    Args:
        file: the ground truth.
        class_names: the classes that take part.
        instead: what the message tells the user to do without objects.

    Raises:
        DatasetError: the file lacks a class, or has no object of these classes that is no crowd.
    """
    wanted = set(file.category_ids(class_names))
    if any(one.get("category_id") in wanted and not one.get("iscrowd") for one in file.annotations):
        return
    raise DatasetError(
        f"{file.path}: found no object of the classes {', '.join(class_names[:8])}"
        f"{', …' if len(class_names) > 8 else ''} that is no crowd, expected ground truth to "
        f"compare with among its {len(file.annotations)} annotations. Set `classes` to classes of this file. "
        f"{instead}"
    )


def _truth(
    metric: str, file: AnnotationFile, wanted: set[int], number: Mapping[ImageId, int]
) -> list[dict[str, Any]]:
    """Annotations of the wanted categories with only the keys the metric reads."""
    records = []
    for found in file.annotations:
        try:
            if found["category_id"] not in wanted:
                continue
            x, y, width, height = (float(v) for v in found["bbox"])
            record = {
                "image_id": number[found["image_id"]],
                "category_id": found["category_id"],
                "bbox": [x, y, width, height],
                "area": float(found.get("area", width * height)),
                "iscrowd": int(found.get("iscrowd", 0)),
                "ignore": int(found.get("ignore", 0)),
            }
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"{file.path}: annotation {found.get('id')} has a missing or wrong value ({error!r}), "
                "expected image_id of an image in the file, category_id and bbox [x, y, width, height]"
            ) from error
        if metric == "segm":
            size = file.image_hw(found["image_id"])
            where = f"{file.path}: segmentation of annotation {found.get('id')}"
            segmentation = masks.whole_polygons(found.get("segmentation"), where=where)
            wrong = masks.segmentation_problem(segmentation, size)
            if wrong is not None:
                raise DatasetError(f"{where}: {wrong}")
            record["segmentation"] = segmentation
        records.append(record)
    return records


def _records(
    metric: str,
    file: AnnotationFile,
    category_ids: Sequence[int],
    results: Mapping[ImageId, Detections],
    number: Mapping[ImageId, int],
) -> list[dict[str, Any]]:
    """Results as COCO records, images in the order of ``results``."""
    records: list[dict[str, Any]] = []
    for image_id, detections in results.items():
        where = f"results of image {image_id!r}"
        if metric == "segm":
            found = segm_records(detections, category_ids, where=where)
            areas = masks.areas([record["segmentation"] for record in found])
            tight = masks.boxes_xywh([record["segmentation"] for record in found]).tolist()
            for record, area, box in zip(found, areas.tolist(), tight, strict=True):
                record.update(area=float(area), bbox=box)
            if any(tuple(r["segmentation"]["size"]) != file.image_hw(image_id) for r in found):
                raise DatasetError(
                    f"{where}: found masks that are not of the image's size {file.image_hw(image_id)}"
                )
        else:
            found = box_records(detections, category_ids, where=where)
            for record in found:
                record["area"] = record["bbox"][2] * record["bbox"][3]
        for record in found:
            record.update(image_id=number[image_id], iscrowd=0)
        records.extend(found)
    return records


def _size(image: Mapping[str, Any]) -> dict[str, int]:
    """Height and width of an image record, as far as it has them."""
    return {key: int(image[key]) for key in ("height", "width") if key in image}


def _numbered(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records, which are this module's own, with ids from 1."""
    for i, record in enumerate(records, start=1):
        record["id"] = i
    return records
