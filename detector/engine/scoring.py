"""Metrics of results, files for test servers, and results files.

Results are {image id: Detections} in original-image pixels; MMDetection's form only exists in result files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detector.config import Config
from detector.data.datasets.base import DetectionDataset
from detector.engine.log import timestamp
from detector.engine.metric_sets import (
    CITYSCAPES_METRIC,
    FREE_METRICS,
    MASK_METRICS,
    Metrics,
    ground_truth_dir,
    metric_set,
    require_truth,
)
from detector.engine.settings import COCO_OPTIONS, OTHER_OPTIONS, check_keys, evaluation_options
from detector.errors import ConfigError, DatasetError
from detector.evaluation.files import write_json
from detector.evaluation.results import from_mmdet, load_results, proposal_array, save_results, to_mmdet
from detector.evaluation.submissions.formats import write_files
from detector.structures.samples import Detections

ImageId = int | str
Results = dict[ImageId, Detections]

__all__ = [
    "MASK_METRICS",
    "ImageId",
    "Metrics",
    "Results",
    "check_evaluation",
    "check_request",
    "chosen_metrics",
    "evaluate_results",
    "format_results",
    "ground_truth_dir",
    "read_results",
    "write_metrics",
    "write_results",
]


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
        metrics: those of the data set's type (``detector.engine.metric_sets``); None for the config's.
        options: those of the type, jsonfile_prefix, outfile_prefix.

    Raises:
        ConfigError: unknown metric or option.
        DatasetError: the data set has no ground truth.
    """
    names, chosen = chosen_metrics(config, dataset, metrics, options)
    found = metric_set(dataset).measure(dataset, results, names, chosen)
    if set(names) - {CITYSCAPES_METRIC} and chosen.get("jsonfile_prefix"):
        free = set(names) <= set(FREE_METRICS)
        write_files(results, dataset, jsonfile_prefix=chosen["jsonfile_prefix"], proposals=free)
    return found


def chosen_metrics(
    config: Config,
    dataset: DetectionDataset,
    metrics: Sequence[str] | str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    where: str = "evaluation.metric",
) -> tuple[list[str], dict[str, Any]]:
    """(metrics, options) of an evaluation: the config's, the caller's over them, with known names only.

    Raises:
        ConfigError: a metric or an option that the data set's type does not have.
    """
    chosen = {**evaluation_options(config.data.get("evaluation")), **(options or {})}
    kind = metric_set(dataset)
    wanted = metrics if metrics is not None else chosen.get("metric", kind.metrics[0])
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    kind.check(names, chosen, where=where)
    return names, chosen


def check_request(
    config: Config, dataset: DetectionDataset, metrics: Sequence[str], options: Mapping[str, Any]
) -> list[str]:
    """The metrics of ``--eval``, after raising what an evaluation would raise once the model has run.

    Raises:
        ConfigError: a metric or an option that the data set's type does not have.
        DatasetError: there is no ground truth.
    """
    names, chosen = chosen_metrics(config, dataset, metrics, options, where="--eval")
    require_truth(dataset, names, chosen)
    return names


def check_evaluation(config: Config, dataset: DetectionDataset, *, with_mask: bool) -> None:
    """Raise now what an evaluation by the config would raise after hours of training.

    Args:
        config: its ``evaluation`` counts.
        dataset: what will be evaluated on.
        with_mask: whether the model predicts masks.

    Raises:
        ConfigError: unknown metric or option, or masks asked of a model without them.
        DatasetError: images or the ground truth are missing.
    """
    names, chosen = chosen_metrics(config, dataset)
    of_masks = [name for name in names if name in MASK_METRICS]
    if of_masks and not with_mask:
        raise ConfigError(
            f"{config.path}: evaluation.metric: found {names}, but the model has no mask head; expected "
            "'bbox' or 'proposal' for it. Set evaluation.metric='bbox', or add a mask head."
        )
    dataset.check_images()
    try:
        require_truth(dataset, names, chosen)
    except DatasetError as error:
        raise DatasetError(
            f"data.val: {error}. Set data.val to an annotated split, or train with --no-validate."
        ) from error


def format_results(
    config: Config,
    dataset: DetectionDataset,
    results: Mapping[ImageId, Detections],
    *,
    options: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Files for a test server: json (``jsonfile_prefix``) or txt (``txtfile_prefix``) of its data set.

    Raises:
        ConfigError: unknown option, or neither prefix given.
    """
    chosen = {**evaluation_options(config.data.get("evaluation")), **(options or {})}
    check_keys("format", chosen, (*COCO_OPTIONS, *OTHER_OPTIONS))
    if not (chosen.get("jsonfile_prefix") or chosen.get("txtfile_prefix")):
        raise ConfigError(
            "format: found no place for the files; expected --eval-options jsonfile_prefix=PATH (COCO, LVIS) "
            "or txtfile_prefix=FOLDER (Cityscapes, VOC)."
        )
    return write_files(
        results,
        dataset,
        jsonfile_prefix=chosen.get("jsonfile_prefix"),
        txtfile_prefix=chosen.get("txtfile_prefix"),
        proposals=(config.data.get("model") or {}).get("type") == "RPN",
    )


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
