"""How the metrics of each kind of data set are measured: from results to values and curves.

Boxes: xyxy, absolute pixels of the original image.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detector.data.datasets.base import DetectionDataset
from detector.engine.joined_split import TestData, parts_of
from detector.errors import ConfigError, DatasetError
from detector.evaluation.annotations import ImageId, read_truth
from detector.evaluation.coco import measure_coco
from detector.evaluation.lvis import measure_lvis
from detector.evaluation.panoptic import evaluate_panoptic
from detector.evaluation.precision import BoxTruth
from detector.evaluation.report import Measured
from detector.evaluation.results import PanopticDetections, to_boxes
from detector.evaluation.voc import measure_voc
from detector.structures.samples import Detections

Options = Mapping[str, Any]
Found = Mapping[ImageId, Detections]

CITYSCAPES_METRIC = "cityscapes"
PANOPTIC_METRIC = "PQ"
IMAGE_FOLDER, TRUTH_FOLDER = "leftImg8bit", "gtFine"
COCO_OPTIONS = ("classwise", "evaluator", "proposal_nums", "iou_thrs", "metric_items")
LVIS_OPTIONS = COCO_OPTIONS[:-1]
VOC_OPTIONS = ("classwise", "iou_thr", "scale_ranges", "proposal_nums")


def coco(dataset: DetectionDataset, results: Found, names: Sequence[str], options: Options) -> Measured:
    """COCO's metrics, and Cityscapes' own."""
    found: dict[str, float | str] = {}
    if CITYSCAPES_METRIC in names:
        found.update(_cityscapes(dataset, results, options))
    rest = [name for name in names if name != CITYSCAPES_METRIC]
    truth = (dataset.ann_file, dataset.class_names)
    return _with_tables(found, truth, results, rest, options) if rest else Measured(found)


def lvis(dataset: DetectionDataset, results: Found, names: Sequence[str], options: Options) -> Measured:
    """LVIS' metrics."""
    chosen = only(options, LVIS_OPTIONS)
    return measure_lvis(dataset.ann_file, dataset.class_names, results, metrics=names, **chosen)


def panoptic(dataset: DetectionDataset, results: Found, names: Sequence[str], options: Options) -> Measured:
    """PQ of the maps, and COCO's metrics of the instances."""
    found: dict[str, float | str] = {}
    if PANOPTIC_METRIC in names:
        found.update(_quality(dataset, results, options))
    rest = [name for name in names if name != PANOPTIC_METRIC]
    if not rest:
        return Measured(found)
    truth = (instances_file(dataset), countable_classes(dataset))
    return _with_tables(found, truth, results, rest, options)


def voc(dataset: TestData, results: Found, names: Sequence[str], options: Options) -> Measured:
    """VOC's metrics, also of several annotation files together; the first one's year counts."""
    classes = len(dataset.class_names)
    nothing = [np.zeros((0, 5), np.float32)] * classes
    boxes = [to_boxes(results[i], classes) if i in results else nothing for i in dataset.image_ids]
    parts = parts_of(dataset)
    truth = [one for part in parts for one in box_truth(part)]
    year = getattr(parts[0], "year", None)  # VOC-like data of one's own has none
    chosen = only(options, VOC_OPTIONS)
    return measure_voc(boxes, truth, dataset.class_names, metrics=names, year=year, **chosen)


def box_truth(dataset: DetectionDataset) -> list[BoxTruth]:
    """The objects of every image as arrays, difficult ones included."""
    index = dataset.index
    rows = (slice(int(a), int(b)) for a, b in itertools.pairwise(index.offsets))
    return [BoxTruth(index.boxes[row], index.labels[row], index.ignored[row]) for row in rows]


def countable_classes(dataset: DetectionDataset) -> list[str]:
    """The countable classes of a panoptic data set, which come first: those of the instance annotations."""
    known = read_truth(instances_file(dataset)).categories
    return list(itertools.takewhile(lambda name: name in known, dataset.class_names))


def instances_file(dataset: DetectionDataset) -> Path:
    """The instance annotations of a panoptic data set.

    Raises:
        ConfigError: the config names none.
    """
    path = getattr(dataset, "ins_ann_file", None)
    if path is None:
        raise ConfigError(
            f"{dataset.where}: has no ins_ann_file, expected the instance annotations of the same images for "
            "'bbox' and 'segm'. Add it, or evaluate 'PQ' alone."
        )
    return Path(path)


def ground_truth_dir(img_prefix: Path, given: str | None = None) -> Path:
    """Cityscapes' ground-truth folder beside an image folder: ``leftImg8bit/val`` -> ``gtFine/val``.

    Raises:
        ConfigError: no folder is given and the images do not lie below ``leftImg8bit``.
    """
    if given is not None:
        return Path(given)
    parts = img_prefix.parts
    if IMAGE_FOLDER not in parts:
        raise ConfigError(
            f"cityscapes metric: images lie in {img_prefix}; expected a folder below {IMAGE_FOLDER}, with "
            f"{TRUTH_FOLDER} beside it. "
            "Give --eval-options gt_dir=FOLDER."
        )
    place = len(parts) - 1 - parts[::-1].index(IMAGE_FOLDER)
    return Path(*parts[:place], TRUTH_FOLDER, *parts[place + 1 :])


def only(options: Options, names: Sequence[str]) -> dict[str, Any]:
    """The options that an evaluation takes."""
    return {key: options[key] for key in names if key in options}


def _with_tables(
    found: dict[str, float | str],
    truth: tuple[Path, Sequence[str]],
    results: Found,
    names: Sequence[str],
    options: Options,
) -> Measured:
    """COCO's metrics of (annotation file, classes) after those that are found already."""
    measured = measure_coco(*truth, results, metrics=names, **only(options, COCO_OPTIONS))
    return Measured({**found, **measured.metrics}, measured.curves, measured.classes)


def _quality(dataset: DetectionDataset, results: Found, options: Options) -> dict[str, float | str]:
    """PQ of the panoptic maps."""
    maps = {i: one.panoptic for i, one in results.items() if isinstance(one, PanopticDetections)}
    missing = [i for i in results if maps.get(i) is None]
    if missing:
        raise DatasetError(
            f"results of image {missing[0]!r}: found no panoptic map, expected one for PQ; evaluate the "
            "boxes and masks with 'bbox' and 'segm', or use a panoptic model"
        )
    chosen = only(options, ("evaluator", "classwise"))
    if chosen.get("evaluator") == "pycocotools":
        chosen["evaluator"] = "numpy"  # the COCO API has no PQ
    return evaluate_panoptic(
        dataset.ann_file,
        dataset.class_names,
        {i: one for i, one in maps.items() if one is not None},
        truth_dir=dataset.seg_prefix,
        **chosen,
    )


def _cityscapes(dataset: DetectionDataset, results: Found, options: Options) -> dict[str, float | str]:
    """The official Cityscapes metric; its prediction files stay only if ``outfile_prefix`` says where."""
    from detector.evaluation.cityscapes import evaluate_cityscapes

    infos = [dataset.image_info(i) for i in range(len(dataset))]
    with _folder(options.get("outfile_prefix")) as folder:
        found = evaluate_cityscapes(
            results,
            file_names={info["id"]: info["file_name"] for info in infos},
            class_names=dataset.class_names,
            gt_dir=ground_truth_dir(dataset.img_prefix, options.get("gt_dir")),
            out_dir=folder,
        )
    return dict(found)


@contextlib.contextmanager
def _folder(prefix: str | None) -> Iterator[Path]:
    """The given folder, or a temporary one."""
    if prefix is not None:
        yield Path(prefix)
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
