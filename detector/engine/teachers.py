"""The teacher of a distillation run: built from its own config, with its own weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from detector.build import build_model
from detector.checkpoint.files import load_checkpoint
from detector.checkpoint.load import load_state
from detector.config import Config, load_config
from detector.engine.initial_weights import local_file
from detector.errors import ConfigError
from detector.models.detectors.distillation import KnowledgeDistillationSingleStageDetector
from detector.models.detectors.single_stage import SingleStageDetector


def attach_teacher(model: nn.Module, config: Config, *, note: Callable[[str], None]) -> None:
    """Give a model that distils its teacher; any other model stays as it is.

    Args:
        model: the student.
        config: its config; ``model.teacher_config`` and ``model.teacher_ckpt`` name the teacher.
        note: called with a line about the teacher.

    Raises:
        ConfigError: no teacher is named, its config is not found, or it has no single stage.
        CheckpointError: its weights are not there or do not fit.
    """
    if not isinstance(model, KnowledgeDistillationSingleStageDetector):
        return
    if model.teacher_config is None or model.teacher_ckpt is None:
        raise ConfigError(
            f"{config.path}: model.teacher_config is {model.teacher_config!r}, model.teacher_ckpt is "
            f"{model.teacher_ckpt!r}; expected both. Set them to the teacher's config and weights."
        )
    path = _config_file(model.teacher_config, Path(config.path))
    with torch.random.fork_rng(devices=[]):  # the student's numbers do not depend on how its teacher is made
        teacher = build_model(load_config(path).data["model"], training=False)
    if not isinstance(teacher, SingleStageDetector):
        raise ConfigError(
            f"{path}: the teacher is a {type(teacher).__name__}; expected a single-stage detector with the "
            "student's kind of head (GFL). Name such a config as model.teacher_config."
        )
    report = load_state(teacher, load_checkpoint(local_file(model.teacher_ckpt)), strict=True)
    model.attach_teacher(teacher)
    note(f"teacher {path}: {len(report.matched)} tensors from {model.teacher_ckpt}")


def _config_file(name: str, student: Path) -> Path:
    """The teacher's config, its name taken from here or from a folder above the student's config."""
    places = [Path(), *student.resolve().parents]
    for place in places:
        if (place / name).is_file():
            return place / name
    raise ConfigError(
        f"{student}: model.teacher_config is {name!r}, found neither from {Path.cwd()} nor from a folder "
        f"above {student.resolve().parent}. Give a path that exists."
    )
