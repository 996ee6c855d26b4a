"""A very small detector to train in several processes, and a grip on the processes of a run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from detector.data.synthetic import Recipe, write_coco

ROOT = Path(__file__).parents[2]
MARK = "DETECTOR_TEST_RUN"
CLASSES = ("person", "bicycle", "car", "motorcycle", "bus", "train", "truck")
CONFIG = """
_base_ = {base!r}
model = dict(
    backbone=dict(depth=18, base_channels=8, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    bbox_head=dict(num_classes=7, in_channels=32, feat_channels=32, stacked_convs=1))
classes = {classes!r}
root = {root!r}
notes = root + '/annotations'
img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[57.0, 57.0, 57.0], to_rgb=False)
pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', img_scale=(160, 96), keep_ratio=True), dict(type='RandomFlip', flip_ratio=0.5),
    dict(type='Normalize', **img_norm_cfg), dict(type='Pad', size_divisor=32),
    dict(type='DefaultFormatBundle'), dict(type='Collect', keys=['img', 'gt_bboxes', 'gt_labels'])]
data = dict(
    samples_per_gpu=2,
    workers_per_gpu=1,
    train=dict(type='CocoDataset', classes=classes, ann_file=notes + '/instances_train2017.json',
               img_prefix=root + '/train2017', pipeline=pipeline),
    val=dict(type='CocoDataset', classes=classes, ann_file=notes + '/instances_val2017.json',
             img_prefix=root + '/val2017'),
    test=dict(type='CocoDataset', classes=classes, ann_file=notes + '/instances_val2017.json',
              img_prefix=root + '/val2017'))
optimizer = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001)
optimizer_config = dict(_delete_=True, grad_clip=dict(max_norm=35, norm_type=2))
runner = dict(max_epochs=1)
lr_config = dict(_delete_=True, policy='step', step=[1000])
checkpoint_config = dict(interval=1)
evaluation = dict(interval=1, metric='bbox')
log_config = dict(interval=1)
"""


def write_tiny(folder: Path, *, images: int) -> Path:
    """Config of an FCOS of 0.2 million weights and its data; frozen statistics, so ranks add up exactly."""
    write_coco(folder / "coco", recipe=Recipe(seed=1, train=images, val=3, test=1, height=96, width=160))
    base = ROOT / "configs" / "fcos" / "fcos_r50_caffe_fpn_gn-head_1x_coco.py"
    path = folder / "tiny_fcos.py"
    path.write_text(CONFIG.format(base=str(base), root=str(folder / "coco"), classes=CLASSES))
    return path


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def spool(work_dir: Path) -> list[dict[str, Any]]:
    """All whole lines of a work_dir's logs."""
    lines = [
        line for path in sorted(work_dir.glob("*.log.json")) for line in path.read_text().splitlines(True)
    ]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def trained(work_dir: Path) -> list[tuple[int, int]]:
    """(epoch, iteration) of every line of training."""
    return [(line["epoch"], line["iter"]) for line in spool(work_dir) if line.get("mode") == "train"]


def wait_for(what: Callable[[], Any], *, within: float, say: Callable[[], str] = str) -> Any:
    """The first true value of ``what``."""
    end = time.monotonic() + within
    while not (value := what()):
        assert time.monotonic() < end, f"nothing within {within} s: {say()}"
        time.sleep(0.05)
    return value


@dataclass
class Run:
    """A `detector` command with all processes below it, known by a mark in their environment.

    Attributes:
        arguments: of the command.
        environ: added to this process's environment.
        prefix: put before the command, such as ``ip netns exec NAME``.
        output: file for what all of them say.
    """

    arguments: Sequence[str]
    output: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __enter__(self) -> Run:
        """Start."""
        environ = {**os.environ, "OMP_NUM_THREADS": "1", **self.environ, MARK: self.mark}
        with self.output.open("w") as stream:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "detector", *self.arguments],
                env=environ, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True, cwd=ROOT,
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nobody."""
        for process in self.family():
            with suppress(psutil.Error):
                process.kill()
        self.process.wait()

    @property
    def said(self) -> str:
        """Everything it has said."""
        return self.output.read_text(errors="replace")

    def family(self) -> list[psutil.Process]:
        """Living processes of this run."""
        found = []
        for process in psutil.process_iter(["environ", "status"]):
            marked = (process.info["environ"] or {}).get(MARK) == self.mark
            if marked and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

    def rank(self, number: int) -> psutil.Process:
        """The process of a rank: the eldest with that number, its loader workers come later."""
        mine = [process for process in self.family() if process.environ().get("RANK") == str(number)]
        return min(mine, key=lambda process: process.create_time())

    def ended(self, *, within: float) -> tuple[int, float]:
        """(exit code, seconds until nobody was left)."""
        start = time.monotonic()
        code = self.process.wait(within)
        wait_for(lambda: not self.family(), within=within)
        return code, time.monotonic() - start
