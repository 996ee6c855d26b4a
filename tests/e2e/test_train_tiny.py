"""A small Mask R-CNN from data to result through the command line.

Train, stop, resume, test, evaluate, format.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.checkpoint.files import load_checkpoint, verify_checkpoint
from detector.cli import main
from detector.data.synthetic import Recipe, write_coco
from detector.engine.checkpoints import find_resume_point

CLASSES = ("person", "bicycle", "car", "motorcycle", "bus", "train", "truck")
CONFIG = """
_base_ = {base!r}
model = dict(roi_head=dict(bbox_head=dict(num_classes=7), mask_head=dict(num_classes=7)))
classes = {classes!r}
root = {root!r}
notes = root + '/annotations'
data = dict(
    samples_per_gpu=2,
    workers_per_gpu=1,
    train=dict(type='CocoDataset', classes=classes, ann_file=notes + '/instances_train2017.json',
               img_prefix=root + '/train2017'),
    val=dict(type='CocoDataset', classes=classes, ann_file=notes + '/instances_val2017.json',
             img_prefix=root + '/val2017'),
    test=dict(type='CocoDataset', classes=classes, ann_file=notes + '/image_info_test2017.json',
              img_prefix=root + '/test2017'))
runner = dict(max_epochs=2)
lr_config = dict(_delete_=True, policy='step', step=[1], warmup='linear', warmup_iters=2, warmup_ratio=0.1)
checkpoint_config = dict(interval=1)
evaluation = dict(interval=2, metric=['bbox', 'segm'], save_best='segm_mAP')
log_config = dict(interval=2)
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Config of eight training images of 64 x 128 pixels."""
    folder = tmp_path_factory.mktemp("tiny")
    write_coco(folder / "coco", recipe=Recipe(seed=1, train=8, val=3, test=2, height=96, width=160))
    base = Path(__file__).parents[2] / "configs" / "mask_rcnn" / "mask_rcnn_r18_fpn_sample.py"
    path = folder / "tiny.py"
    path.write_text(CONFIG.format(base=str(base), root=str(folder / "coco"), classes=CLASSES))
    return path


def digest(path: Path) -> str:
    """Digest of a checkpoint's weights."""
    found = hashlib.sha256()
    for key, value in load_checkpoint(path).state_dict.items():
        found.update(key.encode() + value.numpy().tobytes())
    return found.hexdigest()


def spool(work_dir: Path) -> list[dict[str, Any]]:
    """All lines of a work_dir's logs."""
    return [
        json.loads(line)
        for path in sorted(work_dir.glob("*.log.json"))
        for line in path.read_text().splitlines()
    ]


@pytest.fixture(scope="module")
def trained(config: Path) -> Path:
    """Work_dir of the whole run."""
    work_dir = config.parent / "whole"
    assert main(["train", str(config), "--work-dir", str(work_dir), "--seed", "3", "--device", "cpu"]) == 0
    return work_dir


@pytest.mark.slow
def test_training_leaves_logs_checkpoints_and_metrics(trained: Path) -> None:
    assert {p.name for p in trained.glob("*.pth")} >= {"epoch_1.pth", "epoch_2.pth", "latest.pth"}
    assert verify_checkpoint(trained / "epoch_2.pth")
    assert (trained / "tiny.py").is_file()
    meta, *lines = spool(trained)
    assert {"env_info", "config", "seed", "exp_name"} <= set(meta)
    train = [line for line in lines if line["mode"] == "train"]
    assert [(line["epoch"], line["iter"]) for line in train] == [(1, 2), (1, 4), (2, 2), (2, 4)]
    assert {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask", "acc", "grad_norm"} <= set(
        train[0]
    )
    val = [line for line in lines if line["mode"] == "val"]
    assert [(line["epoch"], line["iter"]) for line in val] == [(2, 3)]
    assert {"bbox_mAP", "segm_mAP"} <= set(val[0])
    assert [p.name for p in trained.glob("best_*.pth")] == ["best_segm_mAP_epoch_2.pth"]


@pytest.mark.slow
def test_terminated_training_resumes_to_the_same_weights(config: Path, trained: Path) -> None:
    work_dir = config.parent / "stopped"
    command = [sys.executable, "-m", "detector", "train", str(config), "--work-dir", str(work_dir)]
    command += ["--seed", "3", "--device", "cpu", "--auto-resume"]
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not any(line.get("mode") == "train" for line in spool(work_dir)):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    saved, damaged = find_resume_point(work_dir)
    assert saved is not None
    assert not damaged
    assert 2 < load_checkpoint(saved).meta["iter"] < 8
    assert main([*command[3:]]) == 0
    assert digest(work_dir / "epoch_2.pth") == digest(trained / "epoch_2.pth")


@pytest.mark.slow
def test_test_writes_results_that_eval_reads(
    config: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = str(trained / "latest.pth"), str(config.parent / "results.pkl")
    shown = ["--show-dir", str(config.parent / "drawn")]
    assert (
        main(
            [
                "test",
                str(config),
                checkpoint,
                "--split",
                "val",
                "--out",
                out,
                "--eval",
                "bbox",
                "segm",
                "--device",
                "cpu",
                *shown,
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    with Path(out).open("rb") as stream:
        results = pickle.load(stream)
    assert len(results) == 3
    assert [len(part) for part in results[0]] == [7, 7]
    assert main(["eval", str(config), out, "--split", "val", "--eval", "bbox", "segm"]) == 0
    evaluated = capsys.readouterr().out
    assert evaluated.splitlines() == [
        line for line in printed.splitlines() if line.startswith(("bbox", "segm"))
    ]
    assert len(list((config.parent / "drawn").glob("*.jpg"))) == 3


@pytest.mark.slow
def test_folded_norms_and_half_precision_change_little(config: Path, trained: Path) -> None:
    found = {}
    command = ["test", str(config), str(trained / "latest.pth"), "--split", "val", "--device", "cpu", "--out"]
    options = {"plain": [], "folded": ["--fuse-conv-bn"], "half": ["--cfg-options", "precision=bf16"]}
    for name, more in options.items():
        assert main([*command, str(config.parent / f"{name}.pkl"), *more]) == 0
        with (config.parent / f"{name}.pkl").open("rb") as stream:
            found[name] = pickle.load(stream)
    best = {name: np.concatenate(results[0][0])[:, 4].max() for name, results in found.items()}
    assert best["folded"] == pytest.approx(best["plain"], abs=1e-4)
    assert best["half"] == pytest.approx(best["plain"], abs=0.05)
    assert best["half"] != best["plain"]


@pytest.mark.slow
def test_a_split_without_ground_truth_is_formatted_not_evaluated(
    config: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix, checkpoint = str(config.parent / "sub" / "mine"), str(trained / "latest.pth")
    arguments = ["test", str(config), checkpoint, "--device", "cpu"]
    assert main([*arguments, "--format-only", "--eval-options", f"jsonfile_prefix={prefix}"]) == 0
    assert {p.name for p in Path(prefix).parent.iterdir()} == {"mine.bbox.json", "mine.segm.json"}
    assert main([*arguments, "--eval", "bbox"]) == 1
    assert "--format-only" in capsys.readouterr().err


@pytest.mark.slow
def test_python_use(config: Path, trained: Path) -> None:
    from detector import inference_detector, init_detector

    model: Any = init_detector(str(config), str(trained / "latest.pth"), device="cpu")
    image = next((config.parent / "coco" / "val2017").glob("*.jpg"))
    boxes, masks = inference_detector(model, str(image))
    assert model.CLASSES == CLASSES
    assert [len(boxes), len(masks)] == [7, 7]
    many = inference_detector(model, [str(image), str(image)])
    assert len(many) == 2
    assert model.show_result(str(image), (boxes, masks)).shape == (96, 160, 3)
    picture = model.show_result(str(image), (boxes, masks), out_file=config.parent / "one.png")
    assert picture.shape == (4 * 96, 4 * 160, 3)  # a file to look at: labels need room
    assert (config.parent / "one.png").is_file()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["data.train.ann_file=nowhere.json"], "nowhere.json"),
        (["data.train.classes=[persn]"], "person"),
        (["model.roi_head.bbox_head.num_classes=9"], "num_classes"),
        (["optimizer.type=AdamX"], "Adam"),
        (["load_from=nowhere.pth"], "nowhere.pth"),
        (["load_from=torchvision://resnet18"], "needs the file resnet18"),
    ],
)
def test_mistakes_are_one_paragraph(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    named: str,
) -> None:
    monkeypatch.setenv("DETECTOR_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert (
        main(
            [
                "train",
                str(config),
                "--work-dir",
                str(tmp_path / "w"),
                "--device",
                "cpu",
                "--cfg-options",
                *options,
            ]
        )
        == 1
    )
    errors = capsys.readouterr().err
    assert named in errors
    assert "Traceback" not in errors
