"""YOLOX in small through the command line: mosaics that end, averaged weights, its rates, exact resume."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detector.checkpoint.files import load_checkpoint
from detector.cli import main
from detector.data.synthetic import Recipe, write_coco
from detector.engine.trainer import Trainer

CLASSES = ("person", "bicycle", "car", "motorcycle", "bus", "train", "truck")
CONFIG = """
_base_ = {base!r}
size = (64, 64)
model = dict(
    input_size=size, random_size_range=(1, 3), random_size_interval=2,
    backbone=dict(widen_factor=0.125),
    neck=dict(in_channels=[32, 64, 128], out_channels=16, num_csp_blocks=1),
    bbox_head=dict(num_classes=7, in_channels=16, feat_channels=16))
train_pipeline = [
    dict(type='Mosaic', img_scale=size, pad_val=114.0),
    dict(type='RandomAffine', scaling_ratio_range=(0.5, 1.5), border=(-32, -32)),
    dict(type='MixUp', img_scale=size, ratio_range=(0.8, 1.6), pad_val=114.0),
    dict(type='RandomFlip', flip_ratio=0.5),
    dict(type='Resize', img_scale=size, keep_ratio=True),
    dict(type='Pad', pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0))),
    dict(type='DefaultFormatBundle'),
    dict(type='Collect', keys=['img', 'gt_bboxes', 'gt_labels'])]
classes, root = {classes!r}, {root!r}
notes = root + '/annotations/instances_'
inner = dict(
    type='CocoDataset', classes=classes, ann_file=notes + 'train2017.json', img_prefix=root + '/train2017')
val = dict(type='CocoDataset', classes=classes, ann_file=notes + 'val2017.json', img_prefix=root + '/val2017')
data = dict(samples_per_gpu=2, workers_per_gpu=2, train=dict(dataset=inner, pipeline=train_pipeline),
            val=val, test=val)
runner = dict(max_epochs=5)
optimizer = dict(lr=0.001)
lr_config = dict(warmup_iters=1, num_last_epochs=2)
checkpoint_config = dict(interval=2)
evaluation = dict(interval=4, dynamic_intervals=[(4, 1)])
log_config = dict(interval=2)
custom_hooks = [
    dict(type='YOLOXModeSwitchHook', num_last_epochs=2, priority=48),
    dict(type='SyncNormHook', num_last_epochs=2, interval=10, priority=48),
    dict(type='ExpMomentumEMAHook', resume_from=None, momentum=0.0001, priority=49)]
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("yolox")
    write_coco(folder / "coco", recipe=Recipe(seed=1, train=8, val=2, test=2, height=64, width=96))
    base = Path(__file__).parents[2] / "configs" / "yolox" / "yolox_tiny_8x8_300e_coco.py"
    path = folder / "small_yolox.py"
    path.write_text(CONFIG.format(base=str(base), root=str(folder / "coco"), classes=CLASSES))
    return path


def train(config: Path, work_dir: Path, *more: str) -> int:
    # untrained as it stays here, its boxes may be infinite: evaluation leaves them out and goes on
    fixed = ["--work-dir", str(work_dir), "--seed", "3", "--device", "cpu"]
    return main(["train", str(config), *fixed, *more])


def lines(work_dir: Path, mode: str) -> list[dict[str, Any]]:
    logs = sorted(work_dir.glob("*.log.json"))
    records = [json.loads(line) for path in logs for line in path.read_text().splitlines()]
    return [record for record in records if record.get("mode") == mode]


@pytest.fixture(scope="module")
def whole(config: Path) -> Path:
    work_dir = config.parent / "whole"
    assert train(config, work_dir) == 0
    return work_dir


@pytest.mark.slow
def test_the_last_epochs_have_an_l1_loss(whole: Path) -> None:
    found = lines(whole, "train")
    assert [("loss_l1" in line) for line in found] == [line["epoch"] >= 3 for line in found]
    assert found[-1]["lr"] == pytest.approx(0.001 * 0.05)
    assert (whole / "curves.png").stat().st_size > 10_000


@pytest.mark.slow
def test_checkpoints_hold_averaged_and_trained_weights(whole: Path) -> None:
    state = load_checkpoint(whole / "epoch_5.pth").state_dict
    own = {key: value for key, value in state.items() if not key.startswith("ema_")}
    trained = {key.removeprefix("ema_") for key in state if key.startswith("ema_")}
    assert trained == {key.replace(".", "_") for key, value in own.items() if value.is_floating_point()}
    key = "bbox_head.multi_level_conv_cls.0.weight"
    assert not torch.equal(state[key], state[f"ema_{key.replace('.', '_')}"])


@pytest.mark.slow
@pytest.mark.parametrize("iteration", [5, 13])
def test_stopped_before_and_after_the_switch_and_resumed(
    config: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, iteration: int
) -> None:
    step: Callable[..., bool] = Trainer._iteration

    def stopping(self: Trainer, *args: Any) -> bool:
        if self.iteration == iteration:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_iteration", stopping)
        assert train(config, tmp_path) == 143
    assert train(config, tmp_path, "--auto-resume") == 0
    expected = load_checkpoint(whole / "epoch_5.pth").state_dict
    found = load_checkpoint(tmp_path / "epoch_5.pth").state_dict
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "option", ["precision=bf16", "optimizer_config.type=GradientCumulativeOptimizerHook"]
)
def test_half_precision_and_accumulation_by_an_option(config: Path, tmp_path: Path, option: str) -> None:
    more = ["optimizer_config.cumulative_iters=3"] if "Cumulative" in option else []
    assert (
        train(config, tmp_path, "--no-validate", "--cfg-options", "runner.max_epochs=3", option, *more) == 0
    )
    assert all(line["loss"] > 0 for line in lines(tmp_path, "train"))
