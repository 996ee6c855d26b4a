"""Every pre-flight check of a config and a checkpoint, for ``detector doctor``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detector.checkpoint.files import Checkpoint, load_checkpoint
from detector.checkpoint.weights import resolve_weights
from detector.config import Config
from detector.data.datasets import SampleSource, build_dataset
from detector.engine.initial_weights import requested
from detector.engine.joined_split import as_test_data
from detector.engine.preflight_data import check_dataset, check_truth, parts
from detector.engine.preflight_machine import as_size, check_disk, check_versions
from detector.engine.preflight_memory import check_memory
from detector.engine.preflight_model import (
    build_outline,
    check_checkpoint,
    check_checkpoint_classes,
    check_wiring,
)
from detector.engine.preflight_pipeline import check_pipelines
from detector.engine.preflight_result import OK, PROBLEM, WARNING, Check, attempt, of_error
from detector.engine.scoring import check_evaluation, chosen_metrics
from detector.engine.settings import read_plan
from detector.engine.train import check_num_classes, default_work_dir
from detector.errors import CheckpointError, DetectorError

SPLITS = ("train", "val", "test")


def examine(
    config: Config,
    checkpoint: str | Path | None = None,
    *,
    work_dir: str | Path | None = None,
    device: torch.device,
) -> Iterator[Check]:
    """Make every check and yield its result as it comes; nothing is raised for what the user can mend.

    Args:
        config: what to examine.
        checkpoint: file that is meant for it.
        work_dir: where a training would put its checkpoints; by default the config's.
        device: where a training would run.
    """
    cfg = config.data
    yield check_versions()
    yield attempt("schedule", lambda: _schedule(cfg))
    built: dict[str, SampleSource] = {}
    for split in SPLITS:
        yield from _check_split(cfg, split, built)
    yield from _check_splits(cfg, built)
    yield from check_pipelines(cfg)
    model, checks = _model(config, built)
    yield from checks
    yield from _check_weights(cfg)
    if checkpoint is not None:
        yield from _check_file(cfg, Path(checkpoint), built)
    yield from _check_metrics(config, built.get("val"), model)
    yield from check_disk(cfg, model, Path(work_dir) if work_dir else default_work_dir(config))
    if "train" in built:
        yield from check_memory(cfg, built["train"], model, device)


def _schedule(cfg: Mapping[str, Any]) -> str:
    plan = read_plan(cfg)
    unit = "epochs" if plan.by_epoch else "iterations"
    kept = "all" if plan.max_keep_checkpoints <= 0 else f"the last {plan.max_keep_checkpoints}"
    return f"{plan.total} {unit}, a checkpoint every {plan.checkpoint_interval or plan.total}, {kept} kept"


def _check_split(cfg: Mapping[str, Any], split: str, built: dict[str, SampleSource]) -> Iterator[Check]:
    """Build a split's data set and check it; one that equals a split before it is not read again."""
    section = (cfg.get("data") or {}).get(split)
    if section is None:
        status = PROBLEM if split == "train" else WARNING
        yield Check(
            f"{split} data", status, f"data.{split} is missing", "Add it, or leave out what needs it."
        )
        return
    for other, source in built.items():
        if cfg["data"].get(other) == section and source.test_mode is (split != "train"):
            built[split] = source
            yield Check(f"{split} data", OK, f"the same as {other}")
            return
    try:
        source = build_dataset(section, test_mode=split != "train", where=f"data.{split}")
    except DetectorError as error:
        yield of_error(f"{split} data", error)
        return
    built[split] = source
    names = source.class_names
    shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    files = ", ".join(str(part.ann_file) for part in parts(source))
    yield Check(f"{split} data", OK, f"{len(source):,} images, classes {shown}: {files}")
    yield from check_dataset(source, split)


def _check_splits(cfg: Mapping[str, Any], built: Mapping[str, SampleSource]) -> Iterator[Check]:
    """The same classes everywhere; other files for training and evaluation."""
    train = built.get("train")
    if train is None:
        return
    for split in ("val", "test"):
        other = built.get(split)
        if other is not None and tuple(other.class_names) != tuple(train.class_names):
            text = f"data.{split} has {_listed(other.class_names)}, data.train {_listed(train.class_names)}"
            remedy = "Set the same classes=(...) in the same order in every data set."
            yield Check(f"{split} classes", PROBLEM, f"{text}; expected the same", remedy)
        shared = {p.ann_file for p in parts(train)} & {p.ann_file for p in parts(other)}
        if shared:
            text = f"{sorted(map(str, shared))[0]} is trained on and evaluated on: the metric is flattered"
            yield Check(f"{split} split", WARNING, text, f"Give data.{split} a file of its own.")


def _listed(names: tuple[str, ...]) -> str:
    return f"{len(names)} classes ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})"


def _model(config: Config, built: Mapping[str, SampleSource]) -> tuple[nn.Module | None, list[Check]]:
    """The model without memory, and the checks of its heads."""
    try:
        model = build_outline(config.data)
    except DetectorError as error:
        return None, [of_error("model", error)]
    count = sum(p.numel() for p in model.parameters()) / 1e6
    checks = [Check("model", OK, f"{config.data['model'].get('type')}, {count:.1f} M parameters")]
    train = built.get("train")
    if train is not None:
        names = tuple(train.class_names)

        def heads() -> str:
            check_num_classes(model, names, where=config.path.name)
            return f"num_classes={len(names)}, as the data"

        checks += [attempt("heads", heads), *check_wiring(config.data, train)]
    return model, checks


def _check_weights(cfg: Mapping[str, Any]) -> Iterator[Check]:
    """Weights that the config starts from: here, to be downloaded, or missing."""
    uris = {"load_from": cfg.get("load_from"), "resume_from": cfg.get("resume_from")}
    for where, uri in uris.items():
        if uri:
            yield attempt(where, lambda uri=uri: str(resolve_weights(str(uri), download=False)))  # type: ignore[misc]
    for request in requested(cfg.get("model") or {}):
        title = f"weights of {request.module or 'the model'}"
        try:
            yield Check(title, OK, str(resolve_weights(request.uri, download=False)))
        except CheckpointError as error:
            if "://" not in request.uri:
                yield of_error(title, error)
                continue
            text = f"{request.uri} is not on this machine and will be downloaded"
            yield Check(title, WARNING, text, f"Without a network: {str(error).rsplit('. ', 1)[-1]}")


def _check_file(cfg: Mapping[str, Any], path: Path, built: Mapping[str, SampleSource]) -> Iterator[Check]:
    """A checkpoint: readable, the same classes, the same tensors."""
    try:
        checkpoint: Checkpoint = load_checkpoint(path)
    except DetectorError as error:
        yield of_error("checkpoint", error)
        return
    size = as_size(path.stat().st_size)
    yield Check("checkpoint", OK, f"{path}, {size}, {len(checkpoint.state_dict)} tensors")
    source = built.get("test") or built.get("val") or built.get("train")
    if source is not None:
        yield check_checkpoint_classes(checkpoint, source.class_names, path)
    yield check_checkpoint(cfg, checkpoint)


def _check_metrics(config: Config, val: SampleSource | None, model: nn.Module | None) -> Iterator[Check]:
    """Whether the config's evaluation can be made on the validation data."""
    if not config.data.get("evaluation") or val is None or model is None:
        return

    def evaluation() -> str:
        data = as_test_data(val, f"{config.path}: data.val")
        check_evaluation(config, data, with_mask=bool(getattr(model, "with_mask", False)))
        names, _ = chosen_metrics(config, data)
        return f"{', '.join(names)} on {len(data):,} images"

    yield attempt("evaluation", evaluation)
    yield from check_truth(config.data, val)
