"""Result files for the COCO test server, and for LVIS', which takes the same form: write and check.

``<prefix>.bbox.json``, ``<prefix>.segm.json`` and, of a proposal model, ``<prefix>.proposal.json``: lists of
{image_id, category_id, score, bbox | segmentation}.

Boxes: xywh in the files, absolute pixels of the original image, not rounded.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from detector.errors import DatasetError
from detector.evaluation.annotations import AnnotationFile, ImageId, read_annotations
from detector.evaluation.files import write_json
from detector.evaluation.results import box_records, segm_records
from detector.evaluation.submissions.findings import Findings
from detector.evaluation.submissions.package import Package, check_flat
from detector.structures import masks
from detector.structures.samples import Detections

# The server's name for a results file, such as detections_test-dev2017_mine_results.json.
RESULTS_NAME = re.compile(r"detections_(test-dev|test-challenge|val|test)(\d{4})_([^/]+)_results\.json")
NAME_FORM = "detections_test-dev2017_<algorithm>_results.json"
PROPOSAL_SUFFIX = ".proposal.json"
# COCO's ids run to 90 with gaps.
_NOT_COCO = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_CATEGORY_IDS = frozenset(range(1, 91)) - frozenset(_NOT_COCO)
_LARGEST = 1e300  # JSON's whole numbers have no limit, but a float has
_INSIDE = 1.0  # pixels a box may leave the image by rounding

Fault = tuple[str, str]  # (kind, message)


def write(
    results: Mapping[ImageId, Detections],
    *,
    ann_file: str | Path,
    class_names: Sequence[str],
    prefix: str | Path,
) -> list[Path]:
    """Write the box file, and the mask file if the results hold masks; no ground truth is needed.

    Args:
        results: detections by image id.
        ann_file: COCO or LVIS file with the images and categories of the split.
        class_names: name of each label, matched to the file's categories.
        prefix: path without ``.bbox.json``.

    Raises:
        DatasetError: an image or class is not in the file, or a number is not finite.
    """
    file = _known_images(results, ann_file)
    category_ids = file.category_ids(class_names)
    boxes: list[dict[str, Any]] = []
    segments: list[dict[str, Any]] = []
    with_masks = any(detections.masks is not None for detections in results.values())
    for image_id, detections in results.items():
        where = f"results of image {image_id!r}"
        boxes += [
            {"image_id": image_id, **record} for record in box_records(detections, category_ids, where=where)
        ]
        if with_masks:
            for record in segm_records(detections, category_ids, where=where):
                text = masks.to_json(record["segmentation"])
                segments.append({"image_id": image_id, **record, "segmentation": text})
    written = [write_json(f"{prefix}.bbox.json", boxes)]
    if with_masks:
        written.append(write_json(f"{prefix}.segm.json", segments))
    return written


def write_proposals(
    results: Mapping[ImageId, Detections], *, ann_file: str | Path, prefix: str | Path
) -> list[Path]:
    """Write a proposal model's file; every proposal has category 1, as in the reference.

    Raises:
        DatasetError: an image is not in the file, or a number is not finite.
    """
    _known_images(results, ann_file)
    records = [
        {"image_id": image_id, **record}
        for image_id, detections in results.items()
        for record in box_records(detections, [1], where=f"results of image {image_id!r}")
    ]
    return [write_json(f"{prefix}{PROPOSAL_SUFFIX}", records)]


def _known_images(results: Mapping[ImageId, Detections], ann_file: str | Path) -> AnnotationFile:
    """The annotation file, which must hold every image of the results."""
    file = read_annotations(ann_file)
    foreign = [image_id for image_id in results if image_id not in file.images]
    if foreign:
        raise DatasetError(
            f"{file.path}: found results for image {foreign[0]!r}, expected ids of this file. Give the "
            "annotation file that the model was run on."
        )
    return file


def check(
    package: Package,
    file: AnnotationFile | None,
    findings: Findings,
    *,
    most_used: int = 100,
    named: bool = True,
) -> None:
    """Check every results file of a package.

    Args:
        package: the submission, with one results file if it is a zip.
        file: the images and categories of the split; without it, ids are only checked to be COCO's.
        findings: where faults and notes go.
        most_used: results of an image that the server takes into account.
        named: whether the file in a zip must have COCO's name.
    """
    flat = check_flat(package, findings)
    names = [name for name in flat if name.endswith(".json")]
    others = [name for name in flat if name not in names]
    if others and package.form != "folder":
        findings.add("layout", f"{others[0]} is no JSON file, expected one {NAME_FORM}")
    if not names:
        findings.add("layout", f"{package.path.name} holds no results file, expected one {NAME_FORM}")
    if package.form == "zip":
        if len(names) > 1:
            findings.add("layout", f"found {len(names)} results files ({', '.join(names)}), expected one")
        for name in names:
            if named and not RESULTS_NAME.fullmatch(name):
                findings.add("name", f"{name}, expected {NAME_FORM}")
    for name in names:
        try:
            data = package.read(name)
        except DatasetError as error:
            findings.add("file", str(error))
        else:
            check_records(name, data, file, findings, most_used=most_used)


def check_records(
    name: str, data: bytes, file: AnnotationFile | None, findings: Findings, *, most_used: int
) -> None:
    """Check the content of one results file; faults name its results by their position."""
    try:
        records = json.loads(data)
    except (ValueError, RecursionError) as error:
        findings.add("file", f"{name} cannot be read as JSON ({error})")
        return
    if not isinstance(records, list):
        findings.add("file", f"{name} holds a JSON {type(records).__name__}, expected a list of results")
        return
    if not records:
        findings.add("file", f"{name} holds no result; the server cannot read an empty list")
        return
    categories = _categories(name, file)
    whole = isinstance(records[0], Mapping) and "bbox" in records[0]
    per_image: Counter[ImageId] = Counter()
    for i, record in enumerate(records):
        fault = _record_fault(record, file, categories, boxes=whole)
        if fault is not None:
            findings.add(fault[0], f"{name} result {i}: {fault[1]}")
        elif isinstance(record, Mapping):
            per_image[record["image_id"]] += 1
    _note_counts(name, len(records), per_image, file, findings, most_used)


def _categories(name: str, file: AnnotationFile | None) -> frozenset[int]:
    """The category ids a results file may hold."""
    if name.endswith(PROPOSAL_SUFFIX):
        return frozenset({1})
    return COCO_CATEGORY_IDS if file is None else frozenset(file.categories.values())


def _note_counts(
    name: str,
    found: int,
    per_image: Counter[ImageId],
    file: AnnotationFile | None,
    findings: Findings,
    most_used: int,
) -> None:
    of = f" of {len(file.images)}" if file is not None else ""
    findings.notes.append(f"{name}: {found} results on {len(per_image)}{of} images")
    many = sum(count > most_used for count in per_image.values())
    if many and not name.endswith(PROPOSAL_SUFFIX):
        findings.notes.append(
            f"{name}: {many} images have more than {most_used} results, of which only the best {most_used} "
            "count"
        )


def _record_fault(
    record: Any, file: AnnotationFile | None, categories: frozenset[int], *, boxes: bool
) -> Fault | None:
    """What is wrong with one result; ``boxes`` says that the file's first one has a box."""
    if not isinstance(record, Mapping):
        return "result", f"found {type(record).__name__}, expected an object"
    return (
        _id_fault(record, file, categories)
        or _score_fault(record.get("score"))
        or _shape_fault(record, _size(record["image_id"], file), boxes=boxes)
    )


def _id_fault(
    record: Mapping[str, Any], file: AnnotationFile | None, categories: frozenset[int]
) -> Fault | None:
    image_id, category_id = record.get("image_id"), record.get("category_id")
    split = "COCO" if file is None else file.path.name
    if not isinstance(image_id, int | str) or isinstance(image_id, bool):
        return "image id", f"image_id {image_id!r} is not an id, expected one of {split}"
    if file is not None and image_id not in file.images:
        return "image id", f"image_id {image_id!r} is not in {split}"
    known = isinstance(category_id, int) and not isinstance(category_id, bool) and category_id in categories
    if not known:
        return "category id", f"category_id {category_id!r} is not in {_listed(categories, split)}"
    return None


def _score_fault(score: Any) -> Fault | None:
    return None if _finite(score) else ("score", f"score {score!r} is not a finite number")


def _shape_fault(record: Mapping[str, Any], image_hw: tuple[int, int] | None, *, boxes: bool) -> Fault | None:
    """What is wrong with the box and the mask of a result."""
    if "bbox" not in record and "segmentation" not in record:
        return "result", "found neither bbox nor segmentation"
    if boxes and "bbox" not in record:
        return "result", "has no bbox, but the file's first result has; expected one sort of results a file"
    if not boxes and "segmentation" not in record:
        return "result", "has no segmentation, but the file's first result has one and no bbox"
    wrong = _box_problem(record["bbox"], image_hw) if "bbox" in record else None
    if wrong is not None:
        return "box", wrong
    if "segmentation" not in record:
        return None
    size = image_hw if image_hw is not None else _own_size(record["segmentation"])
    wrong = masks.problem(record["segmentation"], size)
    return None if wrong is None else ("mask", f"segmentation: {wrong}")


def _own_size(segmentation: Any) -> tuple[int, int]:
    """The size an encoding says it has, for a check of its runs; (0, 0) where it says none."""
    size = segmentation.get("size") if isinstance(segmentation, Mapping) else None
    if isinstance(size, list) and len(size) == 2 and all(type(v) is int and v > 0 for v in size):
        return size[0], size[1]
    return 0, 0


def _size(image_id: ImageId, file: AnnotationFile | None) -> tuple[int, int] | None:
    """(height, width) of an image as far as it is known."""
    if file is None or not {"height", "width"} <= file.images[image_id].keys():
        return None
    return file.image_hw(image_id)


def _box_problem(box: Any, image_hw: tuple[int, int] | None) -> str | None:
    """What is wrong with an xywh box for an image of this size."""
    if not isinstance(box, list) or len(box) != 4 or not all(_finite(v) for v in box):
        return f"bbox {box!r} is not four finite numbers"
    x, y, width, height = box
    if width < 0 or height < 0:
        return f"bbox {box} has a negative side"
    if min(x, y) < -_INSIDE:
        return f"bbox {box} begins left of or above the image"
    if image_hw is not None and (x + width > image_hw[1] + _INSIDE or y + height > image_hw[0] + _INSIDE):
        return f"bbox {box} leaves the image of {image_hw[1]} x {image_hw[0]} pixels (width x height)"
    return None


def _finite(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _listed(ids: frozenset[int], split: str) -> str:
    few = sorted(ids)[:4]
    return f"{split} ({', '.join(map(str, few))}{', ...' if len(ids) > len(few) else ''})"


def server_name(path: Path, out: Path, file: AnnotationFile | None) -> str:
    """The name of the results file inside a zip.

    Args:
        path: the results file.
        out: the zip; its name counts if it is the server's.
        file: the split's file; its name tells the split, such as ``image_info_test-dev2017.json``.
    """
    stem = re.sub(r"\.(bbox|segm|proposal)$", "", path.stem)
    for name in (f"{out.stem}.json", f"{stem}.json"):
        if RESULTS_NAME.fullmatch(name):
            return name
    found = re.search(r"(test-dev|test-challenge|val|test)(\d{4})", file.path.name if file else "")
    split = found.group(0) if found else "test-dev2017"
    return f"detections_{split}_{PurePosixPath(stem).name}_results.json"
