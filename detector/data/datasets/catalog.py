"""MMDetection's dataset names, and datasets built from config sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detector.data.datasets.balanced import ClassBalancedDataset
from detector.data.datasets.base import DetectionDataset
from detector.data.datasets.cityscapes import CityscapesDataset
from detector.data.datasets.coco import CocoDataset
from detector.data.datasets.deepfashion import DeepFashionDataset
from detector.data.datasets.lvis import (
    LVISDataset,
    LVISV05Dataset,
    LVISV1Dataset,
    Objects365V1Dataset,
    Objects365V2Dataset,
)
from detector.data.datasets.mixed import MultiImageMixDataset
from detector.data.datasets.panoptic import CocoPanopticDataset
from detector.data.datasets.source import SampleSource
from detector.data.datasets.voc import VOCDataset, WIDERFaceDataset, XMLDataset
from detector.data.datasets.wrappers import ConcatDataset, RepeatDataset
from detector.data.naming import construct, nearest
from detector.data.transforms import build_pipeline
from detector.errors import ConfigError

DATASETS: dict[str, type[DetectionDataset]] = {
    "CityscapesDataset": CityscapesDataset,
    "CocoDataset": CocoDataset,
    "CocoPanopticDataset": CocoPanopticDataset,
    "DeepFashionDataset": DeepFashionDataset,
    "LVISDataset": LVISDataset,
    "LVISV05Dataset": LVISV05Dataset,
    "LVISV1Dataset": LVISV1Dataset,
    "Objects365V1Dataset": Objects365V1Dataset,
    "Objects365V2Dataset": Objects365V2Dataset,
    "VOCDataset": VOCDataset,
    "WIDERFaceDataset": WIDERFaceDataset,
    "XMLDataset": XMLDataset,
}
WRAPPERS: dict[str, type[SampleSource]] = {
    "ClassBalancedDataset": ClassBalancedDataset,
    "ConcatDataset": ConcatDataset,
    "MultiImageMixDataset": MultiImageMixDataset,
    "RepeatDataset": RepeatDataset,
}


def build_dataset(
    cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    test_mode: bool = False,
    default_pipeline: Sequence[Mapping[str, Any]] | None = None,
    where: str = "dataset",
) -> SampleSource:
    """Build a dataset from its config section in MMDetection's dialect.

    Args:
        cfg: dict(type=..., ann_file=..., img_prefix=..., pipeline=[...], ...). A list of them, or a list as
            ann_file, is a ConcatDataset.
        test_mode: items are views without targets; ``test_mode=True`` in cfg does the same.
        default_pipeline: used where cfg has no pipeline.
        where: dotted path of the section, such as 'data.train', for errors.

    Raises:
        ConfigError: an unknown type or argument, with its path, what is accepted and the nearest name.
        DatasetError: the annotation file is missing or does not fit.
    """
    if isinstance(cfg, Sequence) and not isinstance(cfg, str):
        cfg = {"type": "ConcatDataset", "datasets": list(cfg)}
    if not isinstance(cfg, Mapping) or "type" not in cfg:
        raise ConfigError(
            f"{where} is {cfg!r}; expected a dict with a 'type', such as dict(type='CocoDataset', ...)."
        )
    name = cfg["type"]
    if name not in DATASETS and name not in WRAPPERS:
        known = [*DATASETS, *WRAPPERS]
        raise ConfigError(
            f"{where}.type is {name!r}, which is no dataset type here{nearest(str(name), known)}. "
            f"Known: {', '.join(known)}. Convert other formats to COCO first, or correct the name."
        )
    arguments = {key: value for key, value in cfg.items() if key != "type"}
    if name in WRAPPERS:
        return _wrapper(name, arguments, test_mode=test_mode, default_pipeline=default_pipeline, where=where)
    if isinstance(arguments.get("ann_file"), list | tuple):
        joined = {"type": "ConcatDataset", "datasets": _split_files(cfg, where)}
        if "separate_eval" in cfg:
            joined["separate_eval"] = cfg["separate_eval"]
        return build_dataset(joined, test_mode=test_mode, default_pipeline=default_pipeline, where=where)
    steps = arguments.get("pipeline", default_pipeline)
    if steps is None:
        raise ConfigError(f"{where} has no pipeline; expected a list of transforms. Add pipeline=[...].")
    arguments["pipeline"] = build_pipeline(steps, where=f"{where}.pipeline")
    arguments["test_mode"] = test_mode or bool(arguments.get("test_mode", False))
    arguments["where"] = where
    dataset: SampleSource = construct(DATASETS[name], arguments, where=where)
    return dataset


def _wrapper(
    name: str,
    arguments: dict[str, Any],
    *,
    test_mode: bool,
    default_pipeline: Sequence[Mapping[str, Any]] | None,
    where: str,
) -> SampleSource:
    """Build the wrapped datasets first, then the wrapper."""
    if "dataset" in arguments:
        arguments["dataset"] = build_dataset(
            arguments["dataset"],
            test_mode=test_mode,
            default_pipeline=default_pipeline,
            where=f"{where}.dataset",
        )
    if "datasets" in arguments:
        arguments["datasets"] = [
            build_dataset(
                part, test_mode=test_mode, default_pipeline=default_pipeline, where=f"{where}.datasets.{i}"
            )
            for i, part in enumerate(arguments["datasets"])
        ]
    if "pipeline" in arguments:
        arguments["pipeline"] = build_pipeline(arguments["pipeline"], where=f"{where}.pipeline")
    wrapper: SampleSource = construct(WRAPPERS[name], arguments, where=where)
    return wrapper


def _split_files(cfg: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """One section per annotation file; list-valued prefixes go along with it."""
    shared = {key: value for key, value in cfg.items() if key != "separate_eval"}
    parts: list[dict[str, Any]] = [{**shared, "ann_file": path} for path in cfg["ann_file"]]
    for key in ("img_prefix", "seg_prefix", "proposal_file"):
        values = cfg.get(key)
        if isinstance(values, list | tuple):
            if len(values) != len(parts):
                raise ConfigError(
                    f"{where}.{key} has {len(values)} entries, ann_file has {len(parts)}. Give as many."
                )
            for part, value in zip(parts, values, strict=True):
                part[key] = value
    return parts
