"""Which metrics a data set's type has, which options they take, and which of them its results can have.

| type                   | metrics                          | evaluator                                |
|------------------------|----------------------------------|------------------------------------------|
| CocoDataset and others | bbox segm proposal proposal_fast | hotcoco or pycocotools                   |
| CityscapesDataset      | these and cityscapes             | cityscapesscripts for the last           |
| CocoPanopticDataset    | PQ bbox segm                     | hotcoco, or NumPy code of our own for PQ |
| LVISDataset, V05, V1   | bbox segm proposal proposal_fast | hotcoco, or pycocotools with LVIS' rules |
| VOCDataset, XMLDataset | mAP or recall                    | NumPy code of our own                    |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from detector.data.datasets.base import DetectionDataset
from detector.data.datasets.lvis import LVISV05Dataset, LVISV1Dataset
from detector.data.datasets.panoptic import CocoPanopticDataset
from detector.data.datasets.voc import XMLDataset
from detector.engine import measures
from detector.engine.checks import check_keys
from detector.engine.joined_split import JoinedSplit, TestData
from detector.engine.measures import CITYSCAPES_METRIC, PANOPTIC_METRIC, Found, Options
from detector.errors import ConfigError, DatasetError
from detector.evaluation.annotations import INSTEAD, read_truth
from detector.evaluation.coco import METRICS as COCO_METRICS
from detector.evaluation.comparison import require_objects
from detector.evaluation.lvis import METRICS as LVIS_METRICS
from detector.evaluation.report import Measured
from detector.evaluation.results import PanopticDetections
from detector.evaluation.voc import METRICS as VOC_METRICS

FREE_METRICS = ("proposal", "proposal_fast")
MASK_METRICS = ("segm", CITYSCAPES_METRIC)
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
        measure: (data set, results, metric names, options) to values and curves.
        fitting: (data set, results) to the metrics of labelled objects that these can have; None where only
            the config can choose.
    """

    kind: str
    metrics: tuple[str, ...]
    options: tuple[str, ...]
    places: tuple[str, ...]
    measure: Callable[[Any, Found, Sequence[str], Options], Measured]
    fitting: Callable[[Any, Found], list[str]] | None = None

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


def metric_set(dataset: TestData) -> MetricSet:
    """The metrics of a data set, by its type; of several together, those of VOC.

    Raises:
        ConfigError: they cannot be measured together.
    """
    if isinstance(dataset, JoinedSplit):
        kinds = {metric_set(part).kind for part in dataset.parts}
        if kinds != {"VOC"}:
            raise ConfigError(
                f"{dataset.where}.separate_eval is False, and its data sets are of the kind "
                f"{' and '.join(sorted(kinds))}; expected VOC-format ones, which alone can be measured "
                "together. Set separate_eval=True for numbers of each, or join the annotation files."
            )
        return VOC
    if isinstance(dataset, XMLDataset):
        return VOC
    if isinstance(dataset, CocoPanopticDataset):
        return PANOPTIC
    if isinstance(dataset, LVISV05Dataset | LVISV1Dataset):
        return LVIS
    return COCO


def evaluated_parts(dataset: TestData) -> Sequence[TestData]:
    """What gets numbers of its own: the parts of a joined split, unless all count together."""
    return dataset.parts if isinstance(dataset, JoinedSplit) and dataset.separate_eval else [dataset]


def require_truth(
    dataset: TestData, names: Sequence[str], options: Options, *, instead: str = INSTEAD
) -> None:
    """Raise where there is nothing to compare results with.

    Args:
        dataset: what will be evaluated on.
        names: the metrics.
        options: of the evaluation.
        instead: what the message tells the user to do without ground truth.

    Raises:
        DatasetError: no object of the classes, or no folder of Cityscapes' ground truth.
        ConfigError: where that folder is cannot be told.
    """
    if isinstance(dataset, JoinedSplit):
        for part in dataset.parts:
            require_truth(part, names, options, instead=instead)
    elif isinstance(dataset, XMLDataset):
        _require_counted(dataset, instead)
    elif isinstance(dataset, CocoPanopticDataset):
        read_truth(dataset.ann_file, instead=instead)
        if set(names) - {PANOPTIC_METRIC}:
            truth = read_truth(measures.instances_file(dataset), instead=instead)
            require_objects(truth, measures.countable_classes(dataset), instead=instead)
    else:
        if set(names) - {CITYSCAPES_METRIC} and dataset.index.ignored.all():  # also where there is none
            truth = read_truth(dataset.ann_file, instead=instead)
            require_objects(truth, dataset.class_names, instead=instead)
        if CITYSCAPES_METRIC in names:
            _require_cityscapes(dataset, options)


def _require_counted(dataset: DetectionDataset, instead: str) -> None:
    if dataset.index.ignored.all():
        shown = ", ".join(dataset.class_names[:8])
        raise DatasetError(
            f"{dataset.ann_file}: found no object of the classes {shown} that is not difficult, expected "
            f"ground truth to compare with. {instead}"
        )


def _require_cityscapes(dataset: DetectionDataset, options: Options) -> None:
    folder = measures.ground_truth_dir(dataset.img_prefix, options.get("gt_dir"))
    if not folder.is_dir():
        raise DatasetError(
            f"{folder}: found no such folder, expected the split's Cityscapes ground truth. "
            "Link the data set, or give --eval-options gt_dir=FOLDER."
        )


def _coco_fitting(dataset: DetectionDataset, results: Found) -> list[str]:
    """Boxes, masks if there are any, and Cityscapes' metric where its ground truth lies beside the images."""
    if not _have_masks(results):
        return ["bbox"]
    beside = measures.IMAGE_FOLDER in dataset.img_prefix.parts
    truth = beside and measures.ground_truth_dir(dataset.img_prefix).is_dir()
    return ["bbox", "segm", *([CITYSCAPES_METRIC] if truth else [])]


def _lvis_fitting(dataset: DetectionDataset, results: Found) -> list[str]:
    """Boxes, and masks if there are any."""
    return ["bbox", "segm"] if _have_masks(results) else ["bbox"]


def _panoptic_fitting(dataset: DetectionDataset, results: Found) -> list[str]:
    """PQ of maps; boxes and masks where the config names instance annotations."""
    maps = any(isinstance(one, PanopticDetections) and one.panoptic is not None for one in results.values())
    instances = getattr(dataset, "ins_ann_file", None) is not None
    return [*([PANOPTIC_METRIC] if maps else []), *(_lvis_fitting(dataset, results) if instances else [])]


def _have_masks(results: Found) -> bool:
    return any(found.masks is not None for found in results.values())


COCO = MetricSet(
    kind="COCO",
    metrics=(*COCO_METRICS, CITYSCAPES_METRIC),
    options=measures.COCO_OPTIONS,
    places=("jsonfile_prefix", "outfile_prefix", "gt_dir"),
    measure=measures.coco,
    fitting=_coco_fitting,
)
LVIS = MetricSet(
    kind="LVIS",
    metrics=LVIS_METRICS,
    options=measures.LVIS_OPTIONS,
    places=("jsonfile_prefix",),
    measure=measures.lvis,
    fitting=_lvis_fitting,
)
PANOPTIC = MetricSet(
    kind="panoptic",
    metrics=(PANOPTIC_METRIC, "bbox", "segm"),
    options=measures.COCO_OPTIONS,
    places=(),
    measure=measures.panoptic,
    fitting=_panoptic_fitting,
)
VOC = MetricSet(
    kind="VOC",
    metrics=VOC_METRICS,
    options=measures.VOC_OPTIONS,
    places=(),
    measure=measures.voc,
)
