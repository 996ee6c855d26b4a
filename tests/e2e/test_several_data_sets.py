"""Training, testing and formatting on lists of VOC files, as the published VOC configs have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detector.cli import main
from detector.data.synthetic import Recipe, write_voc

pytestmark = pytest.mark.slow
BASE = Path(__file__).parents[2] / "configs" / "faster_rcnn" / "faster_rcnn_r18_fpn_sample.py"
CONFIG = """
_base_ = {base!r}
norm = dict(type='Normalize', mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4], to_rgb=True)
view = [dict(type='Resize', keep_ratio=True), dict(type='RandomFlip'), norm,
        dict(type='Pad', size_divisor=32), dict(type='ImageToTensor', keys=['img']),
        dict(type='Collect', keys=['img'])]
test_pipeline = [dict(type='LoadImageFromFile'),
                 dict(type='MultiScaleFlipAug', img_scale=(128, 64), flip=False, transforms=view)]
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
                  dict(type='Resize', img_scale=(128, 64), keep_ratio=True),
                  dict(type='RandomFlip', flip_ratio=0.5), norm, dict(type='Pad', size_divisor=32),
                  dict(type='DefaultFormatBundle'),
                  dict(type='Collect', keys=['img', 'gt_bboxes', 'gt_labels'])]
lists = 'ImageSets/Main/'
old, new = 'VOCdevkit/VOC2007/', 'VOCdevkit/VOC2012/'
val = [dict(type='VOCDataset', ann_file=old + lists + 'val.txt', img_prefix=old, pipeline=test_pipeline),
       dict(type='VOCDataset', ann_file=new + lists + 'val.txt', img_prefix=new, pipeline=test_pipeline)]
model = dict(roi_head=dict(bbox_head=dict(num_classes=20)))
data = dict(
    _delete_=True, samples_per_gpu=2, workers_per_gpu=0,
    train=dict(type='RepeatDataset', times=2, dataset=dict(
        type='VOCDataset', ann_file=[old + lists + 'train.txt', new + lists + 'train.txt'],
        img_prefix=[old, new], pipeline=train_pipeline)),
    val=val, test=val)
evaluation = dict(_delete_=True, interval=1, metric='mAP', save_best='0_mAP')
runner = dict(max_epochs=1)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model in the folder of its data and config."""
    folder = tmp_path_factory.mktemp("voc0712")
    for year, seed in ((2007, 1), (2012, 2)):
        recipe = Recipe(seed=seed, train=2, val=2, test=2, height=64, width=128)
        write_voc(folder / "VOCdevkit", recipe=recipe, year=year)
    (folder / "config.py").write_text(CONFIG.format(base=str(BASE)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "config.py", "--work-dir", "work", "--device", "cpu", "--seed", "0"]) == 0
    return folder


def test_training_evaluates_on_every_data_set(run: Path) -> None:
    (log,) = (run / "work").glob("*.log.json")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (measured,) = [line for line in lines if line.get("mode") == "val"]
    assert {"0_mAP", "0_AP50", "1_mAP", "1_AP50"} <= measured.keys()
    assert (run / "work/best_0_mAP_epoch_1.pth").is_file()
    assert lines[0]["iters_per_epoch"] == 4


def metrics_of(folder: Path, *words: str, out: str) -> Any:
    arguments = [
        "test",
        "config.py",
        "work/latest.pth",
        "--device",
        "cpu",
        "--work-dir",
        out,
        "--eval",
        "mAP",
    ]
    assert main([*arguments, "--out", f"{out}.pkl", "--cfg-options", "data.workers_per_gpu=0", *words]) == 0
    (written,) = (folder / out).glob("eval_*.json")
    return json.loads(written.read_text())["metric"]


def test_each_data_set_scores_as_if_it_were_tested_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    both = metrics_of(run, out="both")
    for number, year in enumerate((2007, 2012)):
        base = (run / "config.py").read_text().replace("test=val)", f"test=val[{number}])")
        (run / "config.py").write_text(base)
        alone = metrics_of(run, out=f"alone{year}")
        assert {f"{number}_{name}": value for name, value in alone.items()}.items() <= both.items()
        (run / "config.py").write_text(CONFIG.format(base=str(BASE)))
    assert len(both) == 4


def test_the_split_of_the_server_needs_no_annotation_files(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    root = run / "VOCdevkit/VOC2012"
    names = (root / "ImageSets/Main/test.txt").read_text().split()
    for name in names:
        (root / "Annotations" / f"{name}.xml").unlink()
    text = CONFIG.format(base=str(BASE)).replace(
        "test=val)", "test=dict(val[1], ann_file=new + lists + 'test.txt'))"
    )
    (run / "server.py").write_text(text)
    arguments = ["test", "server.py", "work/latest.pth", "--device", "cpu"]
    assert main([*arguments, "--eval", "mAP"]) == 1
    assert main([*arguments, "--format-only", "--eval-options", "txtfile_prefix=files"]) == 0
    assert len(list((run / "files").glob("comp4_det_test_*.txt"))) == 20
    command = ["check-submission", "files", "--annotations", str(root / "ImageSets/Main/test.txt")]
    assert main([*command, "--zip", "files.zip"]) == 0
