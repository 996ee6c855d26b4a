"""Panoptic quality (PQ, SQ, RQ) of panoptic maps, by hotcoco or by NumPy code of its own here.

Ground truth is COCO's panoptic format: a JSON file with the segments of each image and a folder of PNG files
whose colours are segment ids (R + 256 G + 65536 B, 0 is void). A predicted map holds label + 1000 * instance
per pixel and the number of classes where there is nothing (MMDetection's ``pan_results``).

Shapes: H x W the image.
Source: Kirillov et al., Panoptic Segmentation (2019), section 4.1; rules for void and crowds as panopticapi;
keys in per cent as MMDetection's ``CocoPanopticDataset.evaluate``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.errors import ConfigError, DatasetError
from detector.evaluation.annotations import AnnotationFile, ImageId, read_truth
from detector.evaluation.files import write_json

EVALUATORS = ("hotcoco", "numpy")
INSTANCE_OFFSET = 1000
VOID = 0

Map = NDArray[np.integer[Any]]


@dataclass
class Tally:
    """Matches of one category: found segments, false and missed ones, and the overlaps of the found."""

    found: int = 0
    false: int = 0
    missed: int = 0
    overlap: float = 0.0

    def quality(self) -> tuple[float, float, float]:
        """PQ, SQ and RQ in [0, 1]; zeros where nothing was found."""
        if not self.found:
            return 0.0, 0.0, 0.0
        recognition = self.found / (self.found + 0.5 * self.false + 0.5 * self.missed)
        segmentation = self.overlap / self.found
        return segmentation * recognition, segmentation, recognition


@dataclass(frozen=True)
class Segments:
    """One side of one image: a map of segment ids, and category and crowd flag of each id."""

    pixels: NDArray[np.int64]
    categories: dict[int, int]
    crowds: set[int] = field(default_factory=set)


def evaluate_panoptic(
    ann_file: str | Path,
    class_names: Sequence[str],
    maps: Mapping[ImageId, Map],
    *,
    truth_dir: str | Path | None = None,
    evaluator: str = "hotcoco",
    classwise: bool = False,
) -> dict[str, float | str]:
    """Compare panoptic maps with a COCO panoptic annotation file.

    Args:
        ann_file: the JSON file.
        class_names: name of each label of the maps.
        maps: (H, W) integers by image id, as above; an image without one has no predictions.
        truth_dir: folder of the PNG files; default the JSON's path without its suffix.
        evaluator: 'hotcoco' or 'numpy' (this module's own).
        classwise: also ``PQ/<class>``, ``SQ/<class>``, ``RQ/<class>``.

    Returns:
        PQ, SQ, RQ over all classes, things (_th) and stuff (_st) in per cent, and a line to copy; -1 for a
        group without classes.

    Raises:
        ConfigError: an unknown evaluator.
        DatasetError: the file is not panoptic, a PNG file is missing, or a map does not fit.
    """
    if evaluator not in EVALUATORS:
        raise ConfigError(f"evaluator: found '{evaluator}', expected one of {list(EVALUATORS)} for PQ")
    file = read_truth(ann_file)
    if any("segments_info" not in one for one in file.annotations):
        raise DatasetError(
            f"{file.path}: found annotations without `segments_info`, expected COCO's panoptic format"
        )
    folder = Path(truth_dir) if truth_dir is not None else file.path.with_suffix("")
    foreign = [image_id for image_id in maps if image_id not in file.images]
    if foreign:
        raise DatasetError(f"{file.path}: found a map of image {foreign[0]!r}, expected ids of this file")
    run = _tallies_hotcoco if evaluator == "hotcoco" else _tallies_numpy
    return _metrics(file, run(file, file.category_ids(class_names), maps, folder), classwise=classwise)


def _metrics(
    file: AnnotationFile, tallies: Mapping[int, Tally], *, classwise: bool
) -> dict[str, float | str]:
    """Means over the categories that occur on either side."""
    known = {i: t.quality() for i, t in tallies.items() if t.found + t.false + t.missed}
    things = {record["id"] for record in file.category_records.values() if record.get("isthing", 1)}
    values: dict[str, float | str] = {}
    for suffix, chosen in (("", set(known)), ("_th", things), ("_st", set(known) - things)):
        rows = np.array([known[i] for i in known if i in chosen]).reshape(-1, 3)
        means = 100 * rows.mean(axis=0) if len(rows) else np.full(3, -1.0)
        values.update(
            {f"{name}{suffix}": float(v) for name, v in zip(("PQ", "SQ", "RQ"), means, strict=True)}
        )
    values["PQ_copypaste"] = " ".join(f"{value:.3f}" for value in values.values())
    if classwise:
        names = {category_id: name for name, category_id in file.categories.items()}
        for category_id, quality in known.items():
            for key, value in zip(("PQ", "SQ", "RQ"), quality, strict=True):
                values[f"{key}/{names[category_id]}"] = round(100 * value, 3)
    return values


def _tallies_hotcoco(
    file: AnnotationFile, category_ids: Sequence[int], maps: Mapping[ImageId, Map], folder: Path
) -> dict[int, Tally]:
    """Matches by hotcoco, which reads the predictions from files in panoptic format."""
    from hotcoco.panoptic import PanopticEval

    with tempfile.TemporaryDirectory() as name:
        written = write_panoptic(file, category_ids, maps, Path(name))
        _require_truth(file, folder)
        run = PanopticEval(str(file.path), str(written), gt_folder=str(folder), pred_folder=name)
        try:
            run.evaluate()
        except ValueError as error:
            raise DatasetError(f"{file.path}: {error}; expected files in COCO's panoptic format") from error
        found = run.results()["per_class"]
    return {
        int(i): Tally(found=int(c["tp"]), false=int(c["fp"]), missed=int(c["fn"]), overlap=float(c["iou"]))
        for i, c in found.items()
    }


def write_panoptic(
    file: AnnotationFile, category_ids: Sequence[int], maps: Mapping[ImageId, Map], folder: Path
) -> Path:
    """Write predictions in COCO's panoptic format: PNG files and ``panoptic.json`` (returned)."""
    annotations = []
    for one in file.annotations:
        segments = _predicted(file, category_ids, maps, one["image_id"])
        ids, areas = np.unique(segments.pixels[segments.pixels != VOID], return_counts=True)
        name = Path(str(one["file_name"])).with_suffix(".png").name
        colours = np.stack(
            [segments.pixels // 65536, segments.pixels // 256 % 256, segments.pixels % 256], -1
        )
        cv2.imwrite(str(folder / name), colours.astype(np.uint8))  # OpenCV's order is B, G, R
        info = [
            {"id": i, "category_id": segments.categories[i], "area": area, "iscrowd": 0}
            for i, area in zip(ids.tolist(), areas.tolist(), strict=True)
        ]
        annotations.append({"image_id": one["image_id"], "file_name": name, "segments_info": info})
    return write_json(folder / "panoptic.json", {"annotations": annotations})


def _tallies_numpy(
    file: AnnotationFile, category_ids: Sequence[int], maps: Mapping[ImageId, Map], folder: Path
) -> dict[int, Tally]:
    """Matches by this module, image by image."""
    tallies = {category_id: Tally() for category_id in file.categories.values()}
    for one, truth in _truths(file, folder):
        _count(tallies, truth, _predicted(file, category_ids, maps, one["image_id"]))
    return tallies


def _count(tallies: Mapping[int, Tally], truth: Segments, found: Segments) -> None:
    """Add one image's matches: same category and an overlap above one half, void left out of the union."""
    area, wanted = (_areas(side.pixels) for side in (found, truth))
    shared = _shared(truth.pixels, found.pixels)
    matched_truth, matched_found = set(), set()
    for (gt, dt), pixels in shared.items():
        if gt not in truth.categories or dt not in found.categories or gt in truth.crowds:
            continue
        if truth.categories[gt] != found.categories[dt]:
            continue
        overlap = pixels / (area[dt] + wanted[gt] - pixels - shared.get((VOID, dt), 0))
        if overlap > 0.5:
            tally = tallies[truth.categories[gt]]
            tally.found, tally.overlap = tally.found + 1, tally.overlap + overlap
            matched_truth.add(gt)
            matched_found.add(dt)
    for gt in truth.categories.keys() - truth.crowds - matched_truth:
        tallies[truth.categories[gt]].missed += 1
    crowds = {truth.categories[gt]: gt for gt in truth.categories if gt in truth.crowds}
    for dt in found.categories.keys() - matched_found:
        excused = shared.get((VOID, dt), 0)
        if found.categories[dt] in crowds:
            excused += shared.get((crowds[found.categories[dt]], dt), 0)
        if excused / area[dt] <= 0.5:
            tallies[found.categories[dt]].false += 1


def _truths(file: AnnotationFile, folder: Path) -> Iterator[tuple[dict[str, Any], Segments]]:
    """Each image's annotation and its segments."""
    _require_truth(file, folder)
    for one in file.annotations:
        colours = cv2.imread(str(folder / one["file_name"]), cv2.IMREAD_COLOR)
        if colours is None:
            raise DatasetError(f"{folder / one['file_name']}: found a file that is no image, expected a PNG")
        blue, green, red = (colours[..., i].astype(np.int64) for i in range(3))
        info = one["segments_info"]
        yield (
            one,
            Segments(
                pixels=red + 256 * green + 65536 * blue,
                categories={int(s["id"]): int(s["category_id"]) for s in info},
                crowds={int(s["id"]) for s in info if s.get("iscrowd")},
            ),
        )


def _require_truth(file: AnnotationFile, folder: Path) -> None:
    """Raise for the first PNG file that is not there."""
    for one in file.annotations:
        if not (folder / one["file_name"]).is_file():
            raise DatasetError(
                f"{folder / one['file_name']}: found no such file, expected the segments of image "
                f"{one['image_id']}; truth_dir must be the folder of the panoptic PNG files"
            )


def _predicted(
    file: AnnotationFile, category_ids: Sequence[int], maps: Mapping[ImageId, Map], image_id: ImageId
) -> Segments:
    """The map of an image with ids from 1 (0 is void on both sides)."""
    size = file.image_hw(image_id)
    found = maps.get(image_id)
    if found is None:
        return Segments(pixels=np.zeros(size, np.int64), categories={})
    if found.shape != size:
        raise DatasetError(f"map of image {image_id!r}: found size {found.shape}, expected {size}")
    ids = np.unique(found)
    labels = ids % INSTANCE_OFFSET
    if (labels > len(category_ids)).any() or (ids < 0).any():
        raise DatasetError(
            f"map of image {image_id!r}: found label {labels.max()}, expected 0 to {len(category_ids)} "
            f"({len(category_ids)} for nothing); the model has other classes than the data"
        )
    real = ids[labels < len(category_ids)]
    pixels = np.where(found % INSTANCE_OFFSET < len(category_ids), found.astype(np.int64) + 1, VOID)
    return Segments(
        pixels=pixels, categories={int(i) + 1: category_ids[int(i) % INSTANCE_OFFSET] for i in real}
    )


def _areas(pixels: NDArray[np.int64]) -> dict[int, int]:
    """Number of pixels of each id."""
    ids, counts = np.unique(pixels, return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def _shared(truth: NDArray[np.int64], found: NDArray[np.int64]) -> dict[tuple[int, int], int]:
    """Number of pixels of each pair of ids."""
    base = int(found.max(initial=0)) + 1
    pairs, counts = np.unique(truth * base + found, return_counts=True)
    return {(p // base, p % base): n for p, n in zip(pairs.tolist(), counts.tolist(), strict=True)}
