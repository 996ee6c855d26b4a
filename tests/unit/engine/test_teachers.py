"""A distillation run's teacher: found, loaded, used, and kept out of what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from detector.build import build_model
from detector.checkpoint.files import save_checkpoint
from detector.config import Config, load_config
from detector.engine.teachers import attach_teacher
from detector.errors import CheckpointError, ConfigError
from detector.structures.samples import Batch, ImageMeta, Targets

GFL = """
model = dict(
    type='GFL',
    backbone=dict(type='ResNet', depth=18, num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(0, 1),
                  base_channels=8, norm_eval=True),
    neck=dict(type='FPN', in_channels=[8, 16], out_channels=8, num_outs=2),
    bbox_head=dict(
        type='GFLHead', num_classes=3, in_channels=8, feat_channels=32, stacked_convs=1, reg_max=4,
        anchor_generator=dict(type='AnchorGenerator', ratios=[1.0], octave_base_scale=4, scales_per_octave=1,
                              strides=[4, 8]),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0),
        loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0)),
    train_cfg=dict(assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.6),
                  max_per_img=10))
"""
STUDENT = """
_base_ = 'teacher/gfl.py'
model = dict(
    type='KnowledgeDistillationSingleStageDetector',
    teacher_config={config!r},
    teacher_ckpt={weights!r},
    bbox_head=dict(
        type='LDHead', loss_ld=dict(type='KnowledgeDistillationKLDivLoss', loss_weight=0.25, T=10)))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A teacher's config and weights."""
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "gfl.py").write_text(GFL)
    torch.manual_seed(3)
    teacher: Any = build_model(load_config(tmp_path / "teacher" / "gfl.py").data["model"], training=False)
    teacher.init_weights()
    save_checkpoint(tmp_path / "gfl.pth", {"meta": {}, "state_dict": teacher.state_dict()})
    return tmp_path


def student(
    folder: Path, *, config: str = "teacher/gfl.py", weights: str | None = None
) -> tuple[Any, Config]:
    """An untrained student, and its config."""
    path = folder / "ld.py"
    path.write_text(STUDENT.format(config=config, weights=weights or str(folder / "gfl.pth")))
    read = load_config(path)
    torch.manual_seed(0)
    model: Any = build_model(read.data["model"], training=True)
    model.init_weights()
    return model.train(), read


def batch() -> Batch:
    """One image with one object."""
    torch.manual_seed(1)
    targets = Targets(boxes=torch.tensor([[8.0, 8, 40, 40]]), labels=torch.tensor([1]))
    return Batch(torch.randn(1, 3, 64, 64), [ImageMeta((64, 64), (64, 64), (64, 64))], [targets])


def test_a_teacher_is_loaded_and_stays_out_of_the_state_dict(folder: Path) -> None:
    model, config = student(folder)
    before, lines = list(model.state_dict()), []
    attach_teacher(model, config, note=lines.append)
    losses = model.loss(batch())
    losses["loss_ld"].backward()
    assert losses["loss_ld"] > 0
    assert list(model.state_dict()) == before
    assert not any(p.requires_grad for p in model._teacher[0].parameters())
    assert "gfl.pth" in lines[0]


def test_a_student_like_its_teacher_has_nothing_to_learn(folder: Path) -> None:
    model, config = student(folder)
    attach_teacher(model, config, note=lambda _: None)
    model.load_state_dict(model._teacher[0].state_dict())
    assert model.loss(batch())["loss_ld"].item() == pytest.approx(0, abs=1e-6)


def test_a_teacher_leaves_the_run_s_random_numbers_alone(folder: Path) -> None:
    model, config = student(folder)
    torch.manual_seed(5)
    attach_teacher(model, config, note=lambda _: None)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"config": "nowhere/gfl.py"}, ConfigError, "nowhere/gfl.py"),
        ({"weights": "nowhere.pth"}, CheckpointError, "nowhere.pth"),
    ],
    ids=["config", "weights"],
)
def test_a_missing_teacher_is_named(folder: Path, change: Any, error: type[Exception], words: str) -> None:
    model, config = student(folder, **change)
    with pytest.raises(error, match=words):
        attach_teacher(model, config, note=lambda _: None)


def test_other_models_need_none(folder: Path) -> None:
    config = load_config(folder / "teacher" / "gfl.py")
    lines: list[str] = []
    attach_teacher(build_model(config.data["model"], training=False), config, note=lines.append)
    assert lines == []
