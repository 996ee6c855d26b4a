"""Detections for the Pascal VOC server: one text file per class, ``comp3|comp4_det_<split>_<class>.txt``.

A line is ``<image> <score> <xmin> <ymin> <xmax> <ymax>``. comp3 is for models trained on VOC alone, comp4 for
all others, such as those that start from ImageNet weights.

Boxes: xyxy pixels, counted from 1 in the files as VOC does, from 0 everywhere else.
Source: the development kit's documentation (VOC2012), section on results files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from detector.data.class_names import VOC_CLASSES
from detector.errors import DatasetError
from detector.evaluation.annotations import ImageId
from detector.evaluation.files import write_bytes
from detector.evaluation.results import box_records
from detector.evaluation.submissions.findings import Findings
from detector.evaluation.submissions.package import Package, check_flat
from detector.structures.samples import Detections

FILE_NAME = re.compile(r"(comp[34])_det_([A-Za-z0-9-]+)_(.+)\.txt")
PREFIX = re.compile(r"comp[34]_det_[A-Za-z0-9-]+")
# Where the server looks in an archive; flat files are as good to us.
FOLDER = "results/VOC*/Main"
_INSIDE = 1.0  # pixels a box may leave the image by rounding


def write(
    results: Mapping[ImageId, Detections],
    *,
    file_names: Mapping[ImageId, str],
    class_names: Sequence[str],
    prefix: str | Path,
    split: str = "test",
) -> list[Path]:
    """Write a text file per class; no ground truth is needed.

    Args:
        results: detections by image id.
        file_names: image file of every id; its stem names the image to the server.
        class_names: name of each label.
        prefix: ``FOLDER/comp3_det_test``, or a folder, in which the files begin with ``comp4_det_<split>``.
        split: name of the split for the file names.

    Returns:
        One path per class, in the order of ``class_names``.

    Raises:
        DatasetError: an image has no file name, two have one stem, a name cannot be part of a file, or a
            number is not finite.
    """
    prefix = Path(prefix)
    start = prefix if PREFIX.fullmatch(prefix.name) else prefix / f"comp4_det_{split}"
    stems = _stems(results, file_names)
    unfit = [name for name in class_names if not name or any(c in name for c in " /\\")]
    if unfit:
        raise DatasetError(f"VOC submission: class {unfit[0]!r} cannot be part of a file name; rename it")
    lines: list[list[str]] = [[] for _ in class_names]
    for image_id, detections in results.items():
        where = f"results of image {image_id!r}"
        for record in box_records(detections, range(len(class_names)), where=where):
            x, y, width, height = record["bbox"]
            # Pixels count from 1; the box keeps its width.
            numbers = (record["score"], x + 1, y + 1, x + width + 1, y + height + 1)
            text = " ".join(np.format_float_positional(np.float32(v), trim="-") for v in numbers)
            lines[record["category_id"]].append(f"{stems[image_id]} {text}\n")
    return [
        write_bytes(f"{start}_{name}.txt", "".join(found).encode())
        for name, found in zip(class_names, lines, strict=True)
    ]


def _stems(results: Mapping[ImageId, Detections], file_names: Mapping[ImageId, str]) -> dict[ImageId, str]:
    """The server's name of every image that has results."""
    stems: dict[ImageId, str] = {}
    owners: dict[str, ImageId] = {}
    for image_id in results:
        if image_id not in file_names:
            raise DatasetError(f"VOC submission: image {image_id!r} is not in the data set")
        stem = PurePosixPath(file_names[image_id]).stem
        if stem in owners or " " in stem:
            raise DatasetError(
                f"VOC submission: {file_names[image_id]}: expected an image name without spaces that no "
                "other image of the split has"
            )
        owners[stem] = image_id
        stems[image_id] = stem
    return stems


def check(
    package: Package,
    sizes: Mapping[str, tuple[int, int] | None] | None,
    findings: Findings,
    *,
    classes: Collection[str] = VOC_CLASSES,
) -> None:
    """Check every text file of a package.

    Args:
        package: the submission.
        sizes: (height, width), or None where not known, of every image of the split by its stem; None if the
            split is not known.
        findings: where faults and notes go.
        classes: names that a file may end with.
    """
    flat = check_flat(package, findings, folder=FOLDER)
    starts: set[str] = set()
    seen: set[str] = set()
    count = 0
    for name in flat:
        match = FILE_NAME.fullmatch(PurePosixPath(name).name)
        if match is None:
            findings.add("name", f"{name}, expected comp3_det_<split>_<class>.txt or comp4_...")
            continue
        starts.add(f"{match[1]}_det_{match[2]}")
        if match[3] not in classes:
            findings.add("class", f"{name}: {match[3]!r} is none of {len(classes)} classes of the data")
            continue
        seen.add(match[3])
        count += _check_file(name, package, sizes, findings)
    if len(starts) > 1:
        findings.add("name", f"found files of {' and '.join(sorted(starts))}, expected those of one")
    if not starts:
        findings.add("layout", f"{package.path.name} holds no comp3_det_*.txt or comp4_det_*.txt")
    missing = [name for name in classes if name not in seen]
    if seen and missing:
        findings.notes.append(f"no file for {', '.join(missing)}; the server scores the other classes only")
    findings.notes.append(f"{count} results of {len(seen)} classes")


def _check_file(
    name: str, package: Package, sizes: Mapping[str, tuple[int, int] | None] | None, findings: Findings
) -> int:
    """Check the lines of one file; returns their number."""
    try:
        lines = package.read(name).decode("ascii").splitlines()
    except (DatasetError, UnicodeDecodeError) as error:
        findings.add("file", f"{name} cannot be read as text ({error})")
        return 0
    for number, line in enumerate(lines, start=1):
        fault = _line_fault(line, sizes)
        if fault is not None:
            findings.add(fault[0], f"{name} line {number}: {fault[1]}")
    return len(lines)


def _line_fault(line: str, sizes: Mapping[str, tuple[int, int] | None] | None) -> tuple[str, str] | None:
    """(kind, message) of what is wrong with one line."""
    parts = line.split()
    if len(parts) != 6:
        found = f"found {len(parts)} fields in {line[:60]!r}"
        return "line", f"{found}, expected `<image> <score> <xmin> <ymin> <xmax> <ymax>`"
    if sizes is not None and parts[0] not in sizes:
        return "image", f"{parts[0]!r} is not an image of the split"
    try:
        score, *box = (float(part) for part in parts[1:])
    except ValueError:
        return "number", f"found {' '.join(parts[1:])!r}, expected five numbers"
    if not all(math.isfinite(v) for v in (score, *box)):
        return "number", f"found {' '.join(parts[1:])!r}, expected finite numbers"
    xmin, ymin, xmax, ymax = box
    if xmax < xmin or ymax < ymin:
        return "box", f"box {xmin:g} {ymin:g} {xmax:g} {ymax:g} is inverted"
    size = None if sizes is None else sizes[parts[0]]
    outside = size is not None and (xmax > size[1] + _INSIDE or ymax > size[0] + _INSIDE)
    if min(xmin, ymin) < 1 - _INSIDE or outside:
        of = f" of {size[1]} x {size[0]} pixels" if size is not None else ""
        return "box", f"box {xmin:g} {ymin:g} {xmax:g} {ymax:g} leaves the image{of} (counted from 1)"
    return None
