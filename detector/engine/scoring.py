"""Metrics of results, files for test servers, and results files.

Results are {image id: Detections} in original-image pixels; MMDetection's form only exists in result files.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detector.config import Config
from detector.data.datasets.base import DetectionDataset
from detector.engine.log import timestamp
from detector.engine.settings import COCO_OPTIONS, OTHER_OPTIONS, check_keys, evaluation_options
from detector.errors import ConfigError, DatasetError
from detector.evaluation.coco import evaluate_coco
from detector.evaluation.files import write_json
from detector.evaluation.results import from_mmdet, load_results, proposal_array, save_results, to_mmdet
from detector.evaluation.submissions import cityscapes as cityscapes_files
from detector.evaluation.submissions import coco as coco_files
from detector.structures.samples import Detections

ImageId = int | str
Results = dict[ImageId, Detections]
Metrics = dict[str, float | str]

COCO_METRICS = ("bbox", "segm", "proposal")
CITYSCAPES_METRIC = "cityscapes"
IMAGE_FOLDER, TRUTH_FOLDER = "leftImg8bit", "gtFine"


def evaluate_results(
    config: Config,
    dataset: DetectionDataset,
    results: Mapping[ImageId, Detections],
    *,
    metrics: Sequence[str] | str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Metrics:
    """Metrics of results, by the config's ``evaluation`` and the caller's options over it.

    Args:
        config: its ``evaluation`` gives the defaults.
        dataset: what the results belong to.
        results: detections of every image.
        metrics: 'bbox', 'segm', 'proposal', 'cityscapes'; None for the config's.
        options: classwise, evaluator, proposal_nums, iou_thrs, metric_items, jsonfile_prefix, outfile_prefix.

    Raises:
        ConfigError: unknown metric or option.
        DatasetError: the data set has no ground truth.
    """
    names, chosen = _chosen(config, metrics, options)
    found: Metrics = {}
    if CITYSCAPES_METRIC in names:
        found.update(_cityscapes_metrics(dataset, results, chosen))
    coco_names = [name for name in names if name in COCO_METRICS]
    if coco_names:
        coco_options = {key: chosen[key] for key in COCO_OPTIONS if key in chosen}
        found.update(
            evaluate_coco(dataset.ann_file, dataset.class_names, results, metrics=coco_names, **coco_options)
        )
    if coco_names and chosen.get("jsonfile_prefix"):
        coco_files.write(
            results,
            ann_file=dataset.ann_file,
            class_names=dataset.class_names,
            prefix=chosen["jsonfile_prefix"],
        )
    return found


def _chosen(
    config: Config, metrics: Sequence[str] | str | None = None, options: Mapping[str, Any] | None = None
) -> tuple[list[str], dict[str, Any]]:
    """(metrics, options) of an evaluation, with known names only."""
    chosen = {**evaluation_options(config.data.get("evaluation")), **(options or {})}
    check_keys("evaluation", chosen, (*COCO_OPTIONS, *OTHER_OPTIONS))
    wanted = metrics if metrics is not None else chosen.get("metric", "bbox")
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    check_keys("evaluation.metric", dict.fromkeys(names), (*COCO_METRICS, CITYSCAPES_METRIC))
    return names, chosen


def check_evaluation(config: Config, dataset: DetectionDataset, *, with_mask: bool) -> None:
    """Raise now what an evaluation by the config would raise after hours of training.

    Args:
        config: its ``evaluation`` counts.
        dataset: what will be evaluated on.
        with_mask: whether the model predicts masks.

    Raises:
        ConfigError: unknown metric or option, or masks asked of a model without them.
        DatasetError: images are missing, or there is no ground truth.
    """
    names, chosen = _chosen(config)
    if "segm" in names and not with_mask:
        raise ConfigError(
            f"{config.path}: evaluation.metric: found {names}, but the model has no mask head; expected "
            "'bbox' or 'proposal' for it. Set evaluation.metric='bbox', or add a mask head."
        )
    dataset.check_images()
    if CITYSCAPES_METRIC in names:
        ground_truth_dir(dataset.img_prefix, chosen.get("gt_dir"))
    if set(names) & set(COCO_METRICS) and not len(dataset.index.labels):
        raise DatasetError(
            f"{dataset.ann_file}: found no object of the classes {', '.join(dataset.class_names[:8])}; "
            "expected ground truth to evaluate on. Set data.val to an annotated split, or "
            "train with --no-validate."
        )


def format_results(
    config: Config,
    dataset: DetectionDataset,
    results: Mapping[ImageId, Detections],
    *,
    options: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Files for a test server: COCO json (``jsonfile_prefix``), Cityscapes txt and png (``txtfile_prefix``).

    Raises:
        ConfigError: unknown option, or neither prefix given.
    """
    chosen = {**evaluation_options(config.data.get("evaluation")), **(options or {})}
    check_keys("format", chosen, (*COCO_OPTIONS, *OTHER_OPTIONS))
    if not (chosen.get("jsonfile_prefix") or chosen.get("txtfile_prefix")):
        raise ConfigError(
            "format: found no place for the files; expected --eval-options jsonfile_prefix=PATH (COCO) or "
            "txtfile_prefix=FOLDER (Cityscapes)."
        )
    paths: list[Path] = []
    if chosen.get("jsonfile_prefix"):
        paths += coco_files.write(
            results,
            ann_file=dataset.ann_file,
            class_names=dataset.class_names,
            prefix=chosen["jsonfile_prefix"],
        )
    if chosen.get("txtfile_prefix"):
        folder = Path(chosen["txtfile_prefix"])
        paths += cityscapes_files.write(
            results, ann_file=dataset.ann_file, class_names=dataset.class_names, out_dir=folder
        )
    return paths


def write_results(
    path: str | Path,
    dataset: DetectionDataset,
    results: Mapping[ImageId, Detections],
    *,
    proposals: bool = False,
) -> Path:
    """Write results as MMDetection's pickle, in the data set's order.

    ``proposals`` says that they are a proposal model's: an array per image instead of one per class.
    """
    found = [results[image_id] for image_id in dataset.image_ids]
    if proposals:
        return save_results(path, [proposal_array(one) for one in found])
    return save_results(path, [to_mmdet(one, len(dataset.class_names)) for one in found])


def read_results(path: str | Path, dataset: DetectionDataset) -> Results:
    """Results of a pickle that belongs to a data set.

    Raises:
        ConfigError: the number of images differs.
    """
    items = load_results(path)
    if len(items) != len(dataset):
        raise ConfigError(
            f"{path}: found results of {len(items)} images; expected {len(dataset)}, those of "
            f"{dataset.ann_file}. Give the right --split."
        )
    return {
        # a proposal model's result is one array instead of one per class
        image_id: from_mmdet([item] if isinstance(item, np.ndarray) else item, where=str(path))
        for image_id, item in zip(dataset.image_ids, items, strict=True)
    }


def write_metrics(work_dir: Path, config_name: str, metrics: Metrics) -> Path:
    """Write ``eval_<time>.json`` as the reference's test tool does."""
    work_dir.mkdir(parents=True, exist_ok=True)
    return write_json(work_dir / f"eval_{timestamp()}.json", {"config": config_name, "metric": metrics})


@contextlib.contextmanager
def _folder(prefix: str | None) -> Iterator[Path]:
    """The given folder, or a temporary one."""
    if prefix is not None:
        yield Path(prefix)
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


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


def _cityscapes_metrics(
    dataset: DetectionDataset, results: Mapping[ImageId, Detections], options: Mapping[str, Any]
) -> Metrics:
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
