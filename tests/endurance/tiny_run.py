"""A training of seconds for the endurance scripts: its config, its processes, and what each of them did when.

A training is forked from a process that has imported everything and computed nothing, which saves the time of
the imports. Nothing of the product is replaced: its functions are wrapped, to note what goes on around them.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import signal
import struct
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

CLASSES = ("person", "bicycle", "car", "motorcycle", "bus", "train", "truck")
#: what a training can be busy with; 'start' is everything before its first batch
PHASES = ("start", "data", "step", "save", "best", "evaluate", "end")
CONFIG = """
_base_ = {base!r}
width, channels = 16, 16
gn = dict(type='GN', num_groups=8, requires_grad=True)
model = dict(
    backbone=dict(base_channels=width, stem_channels=width, norm_cfg=gn),
    neck=dict(in_channels=[width, 2 * width, 4 * width, 8 * width], out_channels=channels, norm_cfg=gn),
    rpn_head=dict(in_channels=channels, feat_channels=channels),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels), mask_roi_extractor=dict(out_channels=channels),
        bbox_head=dict(num_classes=7, in_channels=channels, fc_out_channels=32),
        mask_head=dict(num_classes=7, in_channels=channels, conv_out_channels=16)),
    train_cfg=dict(rpn=dict(sampler=dict(num=32)), rpn_proposal=dict(nms_pre=100, max_per_img=40),
                   rcnn=dict(sampler=dict(num=32))),
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=40), rcnn=dict(score_thr=0.0)))
classes = {classes!r}
root = {root!r}
notes = root + '/annotations'
data = dict(
    samples_per_gpu=2,
    workers_per_gpu={workers},
    train=dict(type='CocoDataset', classes=classes, ann_file=notes + '/instances_train2017.json',
               img_prefix=root + '/train2017'),
    val=dict(type='CocoDataset', classes=classes, ann_file=notes + '/instances_val2017.json',
             img_prefix=root + '/val2017'),
    test=dict(type='CocoDataset', classes=classes, ann_file=notes + '/image_info_test2017.json',
              img_prefix=root + '/test2017'))
lr_config = dict(_delete_=True, policy='step', step=[{drop}], warmup='linear', warmup_iters=2,
                 warmup_ratio=0.1, by_epoch={by_epoch})
log_config = dict(interval=2)
{schedule}
"""
# the score of so short a training only falls: by 'less' the best checkpoint changes hands
SCHEDULES = {
    "epoch": """
runner = dict(_delete_=True, type='EpochBasedRunner', max_epochs=3)
checkpoint_config = dict(interval=1, max_keep_ckpts=2)
evaluation = dict(interval=1, metric=['bbox'], iou_thrs=[0.1], save_best='bbox_mAP', rule='less')
""",
    "iteration": """
runner = dict(_delete_=True, type='IterBasedRunner', max_iters=19)
checkpoint_config = dict(interval=4, by_epoch=False, max_keep_ckpts=2)
evaluation = dict(interval=5, metric=['bbox'], iou_thrs=[0.1], save_best='bbox_mAP', rule='less')
""",
}


def write_config(folder: Path, kind: str, *, workers: int = 2, more: str = "") -> Path:
    """Config ``<kind>.py`` of twelve images of 96 x 160 pixels in ``folder``, with ``more`` lines."""
    from detector.data.synthetic import Recipe, write_coco

    root = folder / "coco"
    if not root.is_dir():
        write_coco(root, recipe=Recipe(seed=1, train=12, val=3, test=1, height=96, width=160))
    base = Path(__file__).parents[2] / "configs" / "mask_rcnn" / "mask_rcnn_r18_fpn_sample.py"
    text = CONFIG.format(
        base=str(base), classes=CLASSES, root=str(root), workers=workers, schedule=SCHEDULES[kind],
        drop=2 if kind == "epoch" else 12, by_epoch=kind == "epoch",
    )  # fmt: skip
    path = folder / f"{kind}.py"
    path.write_text(f"{text}{more}\n")
    return path


class Marks:
    """Memory shared with a training: what it is busy with, how often it began that, and how long it took."""

    FORMAT = struct.Struct("B" + "I" * len(PHASES) + "d" * len(PHASES))

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self._current = 0
        self._since = time.monotonic()

    def enter(self, phase: str, *, again: bool = False) -> str:
        """Say what begins now, or goes on again; returns what went on before."""
        now, before = time.monotonic(), self._current
        values = list(self.FORMAT.unpack_from(self._memory))
        values[1 + len(PHASES) + before] += now - self._since
        self._current, self._since = PHASES.index(phase), now
        values[0] = self._current
        values[1 + self._current] += not again
        self.FORMAT.pack_into(self._memory, 0, *values)
        return PHASES[before]

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Mark a phase, and the one around it again at its end."""
        before = self.enter(phase)
        yield
        self.enter(before, again=True)

    @property
    def phase(self) -> str:
        """What goes on."""
        return PHASES[self._memory[0]]

    def count(self, phase: str) -> int:
        """How often it began."""
        return int(self.FORMAT.unpack_from(self._memory)[1 + PHASES.index(phase)])

    def seconds(self, phase: str) -> float:
        """How long it takes, on average."""
        total = self.FORMAT.unpack_from(self._memory)[1 + len(PHASES) + PHASES.index(phase)]
        return float(total) / max(self.count(phase), 1)


def warm_up(config: Path) -> None:
    """Import what a training imports and compute nothing: a fork of this process is as good as new."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    import detector.engine.train  # noqa: F401 - for the forks
    from detector.build import build_model
    from detector.config import load_config
    from detector.engine.evaluate import split_dataset

    loaded = load_config(str(config))
    build_model(loaded.data["model"], training=True)
    split_dataset(loaded, "val")


def fork(job: Callable[[], int], output: Path) -> int:
    """Run ``job`` in a process group of its own, its words in a file; returns the process's number."""
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return pid
    code = 70
    try:
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nothing outlives the script
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
        code = job()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def start_training(
    config: Path,
    work_dir: Path,
    marks: Marks,
    *,
    options: Sequence[str] = (),
    attempt: int = 0,
    notes: Path | None = None,
) -> int:
    """Fork ``detector train CONFIG --auto-resume``.

    What it says goes to ``output.txt`` and its journal to ``journal_<attempt>.txt`` in ``notes``, which is
    the work_dir unless that is about to be full.
    """
    notes = notes or work_dir
    notes.mkdir(parents=True, exist_ok=True)
    arguments = ["train", str(config), "--work-dir", str(work_dir), "--seed", "3", "--device", "cpu"]
    arguments += ["--auto-resume", *(["--cfg-options", *options] if options else [])]
    work_dir.mkdir(parents=True, exist_ok=True)

    def job() -> int:
        import torch

        from detector.cli import main

        torch.set_num_threads(1)
        with (notes / f"journal_{attempt}.txt").open("a", buffering=1) as journal:
            watch(marks, journal.write)
            code = main(arguments)
        marks.enter("end")
        return code

    return fork(job, notes / "output.txt")


def watch(marks: Marks, note: Callable[[str], Any]) -> None:
    """Wrap the product's functions in this process: phases to ``marks``, every step's batch to ``note``."""
    import detector.engine.checkpoints as checkpoints
    import detector.engine.train as training
    from detector.data.loader import TrainLoader
    from detector.engine.step import LossModule

    batches, forward, save = TrainLoader.__iter__, LossModule.forward, checkpoints.save_checkpoint
    at = [0]

    def watched_batches(self: TrainLoader) -> Iterator[Any]:
        epoch, within = self.position
        marks.enter("data")
        for number, batch in enumerate(batches(self), start=epoch * len(self) + within):
            at[0] = number
            marks.enter("step")
            yield batch
            marks.enter("data")

    def watched_forward(self: LossModule, batch: Any) -> Any:
        pixels = zlib.crc32(batch.images.numpy().tobytes())
        note(f"{at[0]} {[meta.image_id for meta in batch.metas]} {pixels:08x}\n")
        return forward(self, batch)

    def watched_save(path: Any, payload: Any) -> str:
        with marks.during("best" if Path(path).name.startswith("best_") else "save"):
            return save(path, payload)

    TrainLoader.__iter__ = watched_batches  # type: ignore[method-assign]
    LossModule.forward = watched_forward  # type: ignore[method-assign]
    checkpoints.save_checkpoint = watched_save
    for name in ("infer_dataset", "evaluate_results"):
        setattr(training, name, _marked(marks, getattr(training, name)))


def _marked(marks: Marks, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        with marks.during("evaluate"):
            return function(*arguments, **options)

    return wrapped


def ended(pid: int) -> int | None:
    """The exit code of a forked process, negative for a signal, or None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def group_members(group: int) -> list[int]:
    """Living processes of a group; those that ended and wait to be noticed do not count."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
            if int(pgrp) == group and state not in "ZX":
                members.append(int(stat.parent.name))
    return members
