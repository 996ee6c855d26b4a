"""Metrics of results, files for test servers, and results files.

Results are {image id: Detections} in original-image pixels; MMDetection's form only exists in result files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detector.config import Config
from detector.engine.checks import check_keys
from detector.engine.joined_split import JoinedSplit, TestData, parts_of
from detector.engine.log import timestamp
from detector.engine.measures import CITYSCAPES_METRIC, Options
from detector.engine.metric_sets import (
    FREE_METRICS,
    MASK_METRICS,
    evaluated_parts,
    metric_set,
    require_truth,
)
from detector.engine.settings import COCO_OPTIONS, OTHER_OPTIONS, evaluation_options
from detector.errors import ConfigError, DatasetError
from detector.evaluation.files import write_json
from detector.evaluation.report import Measured
from detector.evaluation.results import from_mmdet, load_results, proposal_array, save_results, to_mmdet
from detector.evaluation.submissions.formats import text_prefix, wanted_formats, write_files
from detector.lineage.carriers import with_key
from detector.structures.samples import Detections

ImageId = int | str
Metrics = dict[str, float | str]
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
    "formats_of",
    "measure_fitting",
    "read_results",
    "write_metrics",
    "write_results",
]


def evaluate_results(
    config: Config,
    dataset: TestData,
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

    Returns:
        values by name; of several data sets that are measured apart, ``<number from 0>_<name>``.

    Raises:
        ConfigError: unknown metric or option.
        DatasetError: the data set has no ground truth.
    """
    names, chosen = chosen_metrics(config, dataset, metrics, options)
    found = _measure(dataset, results, lambda part, own: names, chosen)
    if set(names) - {CITYSCAPES_METRIC} and chosen.get("jsonfile_prefix"):
        free = set(names) <= set(FREE_METRICS)
        _write_parts(dataset, results, {"jsonfile_prefix": chosen["jsonfile_prefix"]}, proposals=free)
    return found.metrics


def measure_fitting(config: Config, dataset: TestData, results: Mapping[ImageId, Detections]) -> Measured:
    """Everything that the data and the results can be measured by, whatever the config asks for.

    A proposal model has only the config's metrics, and so have data sets of which only one metric can be
    measured at a time.

    Raises:
        ConfigError: unknown metric or option in the config.
        DatasetError: the data set has no ground truth.
    """

    def names(part: TestData, own: Mapping[ImageId, Detections]) -> Sequence[str]:
        asked, _ = chosen_metrics(config, part)
        free = [name for name in asked if name in FREE_METRICS]
        fitting = metric_set(part).fitting
        if fitting is None or free == asked:
            return asked
        return [*fitting(part, own), *free] or asked

    _, chosen = chosen_metrics(config, dataset)
    return _measure(dataset, results, names, chosen)


def _measure(
    dataset: TestData,
    results: Mapping[ImageId, Detections],
    names: Callable[[TestData, Mapping[ImageId, Detections]], Sequence[str]],
    options: Options,
) -> Measured:
    """Values and curves of one data set, or of each part under its number."""
    parts = evaluated_parts(dataset)
    if not isinstance(dataset, JoinedSplit) or list(parts) == [dataset]:
        return metric_set(dataset).measure(dataset, results, names(dataset, results), options)
    every = Measured({})
    for number, (part, own) in enumerate(zip(parts, dataset.divide(results), strict=True)):
        found = metric_set(part).measure(part, own, names(part, own), _placed(options, number))
        every.metrics.update({f"{number}_{name}": value for name, value in found.metrics.items()})
        every.curves.update({f"{number}_{name}": curve for name, curve in found.curves.items()})
        every.classes.update({f"{number}_{name}": one for name, one in found.classes.items()})
    return every


def _placed(options: Options, number: int) -> dict[str, Any]:
    """The options with a place of its own for the files of a part."""
    placed = dict(options)
    for key in ("jsonfile_prefix", "outfile_prefix"):
        if placed.get(key):
            placed[key] = f"{placed[key]}_{number}"
    if placed.get("txtfile_prefix"):
        placed["txtfile_prefix"] = text_prefix(placed["txtfile_prefix"], str(number))
    return placed


def chosen_metrics(
    config: Config,
    dataset: TestData,
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
    kinds = [metric_set(part) for part in evaluated_parts(dataset)]
    wanted = metrics if metrics is not None else chosen.get("metric", kinds[0].metrics[0])
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    for kind in kinds:
        kind.check(names, chosen, where=where)
    return names, chosen


def check_request(
    config: Config, dataset: TestData, metrics: Sequence[str], options: Mapping[str, Any]
) -> list[str]:
    """The metrics of ``--eval``, after raising what an evaluation would raise once the model has run.

    Raises:
        ConfigError: a metric or an option that the data set's type does not have.
        DatasetError: there is no ground truth.
    """
    names, chosen = chosen_metrics(config, dataset, metrics, options, where="--eval")
    require_truth(dataset, names, chosen)
    return names


def check_evaluation(config: Config, dataset: TestData, *, with_mask: bool) -> None:
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
    instead = "Set data.val to an annotated split, or train with --no-validate."
    try:
        require_truth(dataset, names, chosen, instead=instead)
    except DatasetError as error:
        raise DatasetError(f"data.val: {error}") from error


def format_results(
    config: Config,
    dataset: TestData,
    results: Mapping[ImageId, Detections],
    *,
    options: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Files for a test server: json (``jsonfile_prefix``) or txt (``txtfile_prefix``) of its data set.

    Of several data sets each gets its own: ``<jsonfile_prefix>_<number>``, ``<txtfile_prefix>/<number>``.

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
    proposals = (config.data.get("model") or {}).get("type") == "RPN"
    return _write_parts(dataset, results, chosen, proposals=proposals)


def _write_parts(
    dataset: TestData, results: Mapping[ImageId, Detections], options: Options, *, proposals: bool
) -> list[Path]:
    """The server files of a data set, or of each part."""
    if not isinstance(dataset, JoinedSplit):
        return write_files(results, dataset, **_prefixes(options), proposals=proposals)
    return [
        path
        for number, (part, own) in enumerate(zip(dataset.parts, dataset.divide(results), strict=True))
        for path in write_files(own, part, **_prefixes(_placed(options, number)), proposals=proposals)
    ]


def formats_of(dataset: TestData, options: Options) -> list[str]:
    """The formats that the prefixes among the options ask for, before a model is run.

    Raises:
        DatasetError: the data has no such format.
    """
    return [name for part in parts_of(dataset) for name in wanted_formats(part, **_prefixes(options))]


def _prefixes(options: Options) -> dict[str, Any]:
    return {key: options.get(key) for key in ("jsonfile_prefix", "txtfile_prefix")}


def write_results(
    path: str | Path,
    dataset: TestData,
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


def read_results(path: str | Path, dataset: TestData) -> Results:
    """Results of a pickle that belongs to a data set.

    Raises:
        ConfigError: the number of images differs.
    """
    items = load_results(path)
    if len(items) != len(dataset):
        raise ConfigError(
            f"{path}: found results of {len(items)} images; expected {len(dataset)}, those of "
            f"{' and '.join(str(part.ann_file) for part in parts_of(dataset))}. Give the right --split."
        )
    return {
        # a proposal model's result is one array instead of one per class
        image_id: from_mmdet([item] if isinstance(item, np.ndarray) else item, where=str(path))
        for image_id, item in zip(dataset.image_ids, items, strict=True)
    }


def write_metrics(work_dir: Path, config_name: str, metrics: Metrics) -> Path:
    """Write ``eval_<time>.json`` as the reference's test tool does."""
    work_dir.mkdir(parents=True, exist_ok=True)
    document = with_key({"config": config_name, "metric": metrics})
    return write_json(work_dir / f"eval_{timestamp()}.json", document)
