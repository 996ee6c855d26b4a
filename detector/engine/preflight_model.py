"""Pre-flight checks of a model built without memory: what its heads are fed, and a checkpoint for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detector.build import build_model
from detector.checkpoint.describe import class_names
from detector.checkpoint.files import Checkpoint
from detector.checkpoint.load import compare, load_state
from detector.engine.preflight_data import asks, parts, steps_of
from detector.engine.preflight_result import OK, PROBLEM, WARNING, Check, of_error
from detector.errors import ConfigError, DetectorError


def outline(cfg: Mapping[str, Any], *, training: bool = True) -> nn.Module | None:
    """The config's model on the meta device: shapes without memory; None when it cannot be built."""
    try:
        return build_outline(cfg, training=training)
    except DetectorError:
        return None


def build_outline(cfg: Mapping[str, Any], *, training: bool = True) -> nn.Module:
    """The config's model on the meta device.

    Raises:
        ConfigError: the model section is missing or wrong.
    """
    if not isinstance(cfg.get("model"), Mapping):
        raise ConfigError("model: found nothing; expected a dict(type=...). Add the model to the config.")
    with torch.device("meta"):
        return build_model(
            cfg["model"], training=training, train_cfg=cfg.get("train_cfg"), test_cfg=cfg.get("test_cfg")
        )


def has_part(node: Any, key: str) -> bool:
    """Whether a model's config has a part such as ``mask_head``, at any depth."""
    if isinstance(node, list | tuple):
        return any(has_part(item, key) for item in node)
    return isinstance(node, Mapping) and (
        bool(node.get(key)) or any(has_part(value, key) for value in node.values())
    )


def check_wiring(cfg: Mapping[str, Any], dataset: Any) -> Iterator[Check]:
    """Whether the training pipeline loads what the model's heads need."""
    model = cfg.get("model") or {}
    pipelines = [part.pipeline for part in parts(dataset)]
    if not pipelines:
        return
    loads = {
        "masks": all(pipeline.loads_masks for pipeline in pipelines),
        "class maps": all(asks(pipeline, "with_seg") for pipeline in pipelines),
        "proposals": all(
            any(type(step).__name__ == "LoadProposals" for step in steps_of(pipeline))
            for pipeline in pipelines
        ),
    }
    needs = {
        "masks": has_part(model, "mask_head"),
        "class maps": has_part(model, "semantic_head"),
        "proposals": model.get("type") == "FastRCNN",
    }
    add = {
        "masks": "Set LoadAnnotations(with_mask=True) and add 'gt_masks' to Collect's keys.",
        "class maps": "Set LoadAnnotations(with_seg=True), seg_prefix, and add 'gt_semantic_seg' to Collect.",
        "proposals": "Add dict(type='LoadProposals') and proposal_file.",
    }
    lacking = [what for what, needed in needs.items() if needed and not loads[what]]
    for what in lacking:
        text = f"the model needs {what} to learn from, but the training pipeline loads none"
        yield Check("head and pipeline", PROBLEM, text, add[what], ConfigError)
    if loads["masks"] and not needs["masks"] and not has_part(model, "panoptic_head"):
        text = "the training pipeline draws masks, but the model has no mask head: time spent for nothing"
        yield Check("head and pipeline", WARNING, text, "Set LoadAnnotations(with_mask=False).")
    elif not lacking:
        named = [what for what, needed in needs.items() if needed]
        yield Check("head and pipeline", OK, f"boxes{''.join(f', {what}' for what in named)}")


def check_checkpoint(cfg: Mapping[str, Any], checkpoint: Checkpoint) -> Check:
    """Whether every tensor fits the model, with the likely cause where not."""
    try:
        model = build_outline(cfg, training=False)
        _, report = compare(model, checkpoint.state_dict)
        if not report.complete:
            load_state(model, checkpoint, strict=True)  # raises before it loads, with the likely cause
    except DetectorError as error:
        return of_error("checkpoint tensors", error)
    return Check("checkpoint tensors", OK, report.summary())


def check_checkpoint_classes(checkpoint: Checkpoint, wanted: Sequence[str], where: Path) -> Check:
    """Whether a checkpoint's labels mean the data set's classes."""
    from detector.engine.evaluate import check_classes

    names = class_names(checkpoint)
    title = "checkpoint classes"
    if not names:
        return Check(
            title,
            WARNING,
            "the file names none, so their order cannot be compared",
            "Make sure that it was trained with the config's classes in this order.",
        )
    try:
        check_classes(names, wanted, where=str(where))
    except DetectorError as error:
        return of_error(title, error)
    if names != tuple(wanted):
        odd = [f"{a!r} for {b!r}" for a, b in zip(names, wanted, strict=True) if a != b]
        text = f"other names at the same places: {', '.join(odd[:4])}{', ...' if len(odd) > 4 else ''}"
        return Check(title, WARNING, text, "Fine if they mean the same; else take another checkpoint.")
    return Check(title, OK, f"{len(names)}, the data set's in the same order")
