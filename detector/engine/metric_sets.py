"""Which metrics a data set's type has, which options they take, and how they are measured.

| type                   | metrics                          | evaluator                                |
|------------------------|----------------------------------|------------------------------------------|
| CocoDataset and others | bbox segm proposal proposal_fast | hotcoco or pycocotools                   |
| CityscapesDataset      | these and cityscapes             | cityscapesscripts for the last           |
| CocoPanopticDataset    | PQ bbox segm                     | hotcoco, or NumPy code of our own for PQ |
| LVISDataset, V05, V1   | bbox segm proposal proposal_fast | hotcoco, or pycocotools with LVIS' rules |
| VOCDataset, XMLDataset | mAP or recall                    | NumPy code of our own                    |
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detector.data.datasets.base import DetectionDataset
from detector.data.datasets.lvis import LVISV05Dataset, LVISV1Dataset
from detector.data.datasets.panoptic import CocoPanopticDataset
from detector.data.datasets.voc import XMLDataset
from detector.engine.settings import check_keys
from detector.errors import ConfigError, DatasetError
from detector.evaluation.annotations import ImageId, read_truth
from detector.evaluation.coco import METRICS as COCO_METRICS
from detector.evaluation.coco import evaluate_coco
from detector.evaluation.comparison import require_objects
from detector.evaluation.lvis import METRICS as LVIS_METRICS
from detector.evaluation.lvis import evaluate_lvis
from detector.evaluation.panoptic import evaluate_panoptic
from detector.evaluation.precision import BoxTruth
from detector.evaluation.results import PanopticDetections, to_boxes
from detector.evaluation.voc import METRICS as VOC_METRICS
from detector.evaluation.voc import evaluate_voc
from detector.structures.samples import Detections

Metrics = dict[str, float | str]
Options = Mapping[str, Any]
Found = Mapping[ImageId, Detections]

CITYSCAPES_METRIC = "cityscapes"
FREE_METRICS = ("proposal", "proposal_fast")
MASK_METRICS = ("segm", CITYSCAPES_METRIC)
PANOPTIC_METRIC = "PQ"
IMAGE_FOLDER, TRUTH_FOLDER = "leftImg8bit", "gtFine"
#: what every type accepts and an evaluation does not read
COMMON_OPTIONS = ("metric", "txtfile_prefix")


@dataclass(frozen=True)
class MetricSet:
    """The metrics of one kind of data set.

    Attributes:
        kind: what a message calls it.
        metrics: their names; the first is the default.
        options: arguments of the evaluation.
        places: options that say where files are or go.
        measure: (data set, results, metric names, options) to metric values.
    """

    kind: str
    metrics: tuple[str, ...]
    options: tuple[str, ...]
    places: tuple[str, ...]
    measure: Callable[[DetectionDataset, Found, Sequence[str], Options], Metrics]

    def check(self, names: Sequence[str], options: Options, *, where: str = "evaluation.metric") -> None:
        """Refuse metrics and options that this kind of data set does not have.

        Raises:
            ConfigError: naming it, what there is, and the nearest.
        """
        check_keys(where, dict.fromkeys(names), self.metrics)
        if not names:
            raise ConfigError(f"{where}: found none, expected one or more of {', '.join(self.metrics)}.")
        if self.kind == "VOC" and len(names) > 1:
            raise ConfigError(
                f"{where}: found {list(names)}; expected exactly one of {list(VOC_METRICS)} for VOC."
            )
        check_keys("evaluation", options, (*self.options, *self.places, *COMMON_OPTIONS))


def metric_set(dataset: DetectionDataset) -> MetricSet:
    """The metrics of a data set, by its type."""
    if isinstance(dataset, XMLDataset):
        return VOC
    if isinstance(dataset, CocoPanopticDataset):
        return PANOPTIC
    if isinstance(dataset, LVISV05Dataset | LVISV1Dataset):
        return LVIS
    return COCO


def require_truth(dataset: DetectionDataset, names: Sequence[str], options: Options) -> None:
    """Raise where there is nothing to compare results with.

    Raises:
        DatasetError: no object of the classes, or no folder of Cityscapes' ground truth.
        ConfigError: where that folder is cannot be told.
    """
    index = dataset.index
    if isinstance(dataset, XMLDataset):
        if index.ignored.all():
            shown = ", ".join(dataset.class_names[:8])
            raise DatasetError(
                f"{dataset.ann_file}: found no object of the classes {shown} that is not difficult, expected "
                "ground truth to compare with; use --format-only or --out for a test split"
            )
        return
    if isinstance(dataset, CocoPanopticDataset):
        read_truth(dataset.ann_file)
        if set(names) - {PANOPTIC_METRIC}:
            require_objects(read_truth(_instances(dataset)), _things(dataset))
        return
    if set(names) - {CITYSCAPES_METRIC} and index.ignored.all():  # also where there is none
        require_objects(read_truth(dataset.ann_file), dataset.class_names)
    if CITYSCAPES_METRIC in names:
        folder = ground_truth_dir(dataset.img_prefix, options.get("gt_dir"))
        if not folder.is_dir():
            raise DatasetError(
                f"{folder}: found no such folder, expected the split's Cityscapes ground truth. "
                "Link the data set, or give --eval-options gt_dir=FOLDER."
            )


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


def box_truth(dataset: DetectionDataset) -> list[BoxTruth]:
    """The objects of every image as arrays, difficult ones included."""
    index = dataset.index
    rows = (slice(int(a), int(b)) for a, b in zip(index.offsets[:-1], index.offsets[1:], strict=True))
    return [BoxTruth(index.boxes[row], index.labels[row], index.ignored[row]) for row in rows]


def _coco(dataset: DetectionDataset, results: Found, names: Sequence[str], options: Options) -> Metrics:
    """COCO's metrics, and Cityscapes' own."""
    found: Metrics = {}
    if CITYSCAPES_METRIC in names:
        found.update(_cityscapes(dataset, results, options))
    rest = [name for name in names if name != CITYSCAPES_METRIC]
    if rest:
        chosen = _only(options, COCO.options)
        found.update(evaluate_coco(dataset.ann_file, dataset.class_names, results, metrics=rest, **chosen))
    return found


def _lvis(dataset: DetectionDataset, results: Found, names: Sequence[str], options: Options) -> Metrics:
    """LVIS' metrics."""
    chosen = _only(options, LVIS.options)
    return evaluate_lvis(dataset.ann_file, dataset.class_names, results, metrics=names, **chosen)


def _panoptic(dataset: DetectionDataset, results: Found, names: Sequence[str], options: Options) -> Metrics:
    """PQ of the maps, and COCO's metrics of the instances."""
    found: Metrics = {}
    chosen = _only(options, PANOPTIC.options)
    if PANOPTIC_METRIC in names:
        maps = {i: one.panoptic for i, one in results.items() if isinstance(one, PanopticDetections)}
        missing = [i for i in results if maps.get(i) is None]
        if missing:
            raise DatasetError(
                f"results of image {missing[0]!r}: found no panoptic map, expected one for PQ; evaluate the "
                "boxes and masks with 'bbox' and 'segm', or use a panoptic model"
            )
        if chosen.get("evaluator") == "pycocotools":
            chosen["evaluator"] = "numpy"  # the COCO API has no PQ
        found.update(
            evaluate_panoptic(
                dataset.ann_file,
                dataset.class_names,
                {i: one for i, one in maps.items() if one is not None},
                truth_dir=dataset.seg_prefix,
                **_only(chosen, ("evaluator", "classwise")),
            )
        )
    rest = [name for name in names if name != PANOPTIC_METRIC]
    if rest:
        things = _only(options, COCO.options)
        found.update(evaluate_coco(_instances(dataset), _things(dataset), results, metrics=rest, **things))
    return found


def _things(dataset: DetectionDataset) -> list[str]:
    """The countable classes, which come first: those that the instance annotations have."""
    known = read_truth(_instances(dataset)).categories
    return list(itertools.takewhile(lambda name: name in known, dataset.class_names))


def _instances(dataset: DetectionDataset) -> Path:
    """The instance annotations of a panoptic data set."""
    path = getattr(dataset, "ins_ann_file", None)
    if path is None:
        raise ConfigError(
            f"{dataset.where}: has no ins_ann_file, expected the instance annotations of the same images for "
            "'bbox' and 'segm'. Add it, or evaluate 'PQ' alone."
        )
    return Path(path)


def _voc(dataset: DetectionDataset, results: Found, names: Sequence[str], options: Options) -> Metrics:
    """VOC's metrics."""
    classes = len(dataset.class_names)
    nothing = [np.zeros((0, 5), np.float32)] * classes
    boxes = [to_boxes(results[i], classes) if i in results else nothing for i in dataset.image_ids]
    year = getattr(dataset, "year", None)  # VOC-like data of one's own has none
    chosen = _only(options, VOC.options)
    return evaluate_voc(boxes, box_truth(dataset), dataset.class_names, metrics=names, year=year, **chosen)


def _cityscapes(dataset: DetectionDataset, results: Found, options: Options) -> Metrics:
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


def _only(options: Options, names: Sequence[str]) -> dict[str, Any]:
    """The options that an evaluation takes."""
    return {key: options[key] for key in names if key in options}


@contextlib.contextmanager
def _folder(prefix: str | None) -> Iterator[Path]:
    """The given folder, or a temporary one."""
    if prefix is not None:
        yield Path(prefix)
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


COCO = MetricSet(
    kind="COCO",
    metrics=(*COCO_METRICS, CITYSCAPES_METRIC),
    options=("classwise", "evaluator", "proposal_nums", "iou_thrs", "metric_items"),
    places=("jsonfile_prefix", "outfile_prefix", "gt_dir"),
    measure=_coco,
)
LVIS = MetricSet(
    kind="LVIS",
    metrics=LVIS_METRICS,
    options=("classwise", "evaluator", "proposal_nums", "iou_thrs"),
    places=("jsonfile_prefix",),
    measure=_lvis,
)
PANOPTIC = MetricSet(
    kind="panoptic",
    metrics=(PANOPTIC_METRIC, "bbox", "segm"),
    options=("classwise", "evaluator", "proposal_nums", "iou_thrs", "metric_items"),
    places=(),
    measure=_panoptic,
)
VOC = MetricSet(
    kind="VOC",
    metrics=VOC_METRICS,
    options=("classwise", "iou_thr", "scale_ranges", "proposal_nums"),
    places=(),
    measure=_voc,
)
