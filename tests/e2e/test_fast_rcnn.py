"""Fast R-CNN on the proposals of a proposal model, through the command line: train, test, evaluate."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from detector.cli import main
from detector.data.synthetic import Recipe, write_coco

CLASSES = ("person", "bicycle", "car", "motorcycle", "bus", "train", "truck")
DATA = """
_base_ = {base!r}
classes = {classes!r}
root = {root!r}
notes = root + '/annotations'
norm = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
lr_config = dict(_delete_=True, policy='step', step=[1])
runner = dict(max_epochs=1)
log_config = dict(interval=1)
"""
RPN = """
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(160, 96), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True), dict(type='RandomFlip'), dict(type='Normalize', **norm),
        dict(type='Pad', size_divisor=32), dict(type='ImageToTensor', keys=['img']),
        dict(type='Collect', keys=['img'])])]
"""
FAST = """
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadProposals', num_max_proposals=50),
    dict(type='LoadAnnotations', with_bbox=True), dict(type='Resize', img_scale=(160, 96), keep_ratio=True),
    dict(type='RandomFlip', flip_ratio=0.5), dict(type='Normalize', **norm),
    dict(type='Pad', size_divisor=32), dict(type='DefaultFormatBundle'),
    dict(type='Collect', keys=['img', 'proposals', 'gt_bboxes', 'gt_labels'])]
test_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadProposals', num_max_proposals=None),
    dict(type='MultiScaleFlipAug', img_scale=(160, 96), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True), dict(type='RandomFlip'), dict(type='Normalize', **norm),
        dict(type='Pad', size_divisor=32), dict(type='ImageToTensor', keys=['img']),
        dict(type='ToTensor', keys=['proposals']),
        dict(type='ToDataContainer', fields=[dict(key='proposals', stack=False)]),
        dict(type='Collect', keys=['img', 'proposals'])])]
evaluation = dict(interval=1, metric='bbox')
"""
SPLITS = """
data = dict(
    _delete_=True, samples_per_gpu=2, workers_per_gpu=1,
    train=dict(type='CocoDataset', classes=classes, ann_file=notes + '/instances_train2017.json',
               img_prefix=root + '/train2017', pipeline={train}{proposals_train}),
    val=dict(type='CocoDataset', classes=classes, ann_file=notes + '/instances_val2017.json',
             img_prefix=root + '/val2017', pipeline=test_pipeline{proposals_val}),
    test=dict(type='CocoDataset', classes=classes, ann_file=notes + '/instances_{split}2017.json',
              img_prefix=root + '/{split}2017', pipeline=test_pipeline{proposals_val}))
"""


def model_text(kind: str) -> str:
    """The sample's Mask R-CNN as another detector."""
    from detector.config import load_config

    base = Path(__file__).parents[2] / "configs" / "faster_rcnn" / "faster_rcnn_r18_fpn_sample.py"
    model = load_config(base).data["model"]
    model["type"] = kind
    if kind == "RPN":
        del model["roi_head"]
        model["train_cfg"], model["test_cfg"] = ({"rpn": model[c]["rpn"]} for c in ("train_cfg", "test_cfg"))
    else:
        del model["rpn_head"]
        model["roi_head"]["bbox_head"]["num_classes"] = 7
        model["train_cfg"], model["test_cfg"] = (
            {"rcnn": model[c]["rcnn"]} for c in ("train_cfg", "test_cfg")
        )
        model["test_cfg"]["rcnn"]["score_thr"] = 0.0
    return f"model = {model!r}\n".replace("model = {", "model = {'_delete_': True, ", 1)


def write_config(folder: Path, name: str, text: str, *, split: str, proposals: bool, train: str) -> str:
    base = Path(__file__).parents[2] / "configs" / "faster_rcnn" / "faster_rcnn_r18_fpn_sample.py"
    head = DATA.format(base=str(base), classes=CLASSES, root=str(folder / "coco"))
    files = {
        f"proposals_{part}": f", proposal_file={str(folder / part)!r} + '.pkl'" if proposals else ""
        for part in ("train", "val")
    }
    path = folder / f"{name}.py"
    path.write_text(head + text + SPLITS.format(split=split, train=train, **files))
    return str(path)


@pytest.mark.slow
def test_proposals_of_one_model_feed_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from detector.build import build_model
    from detector.checkpoint.files import save_checkpoint
    from detector.config import load_config

    write_coco(tmp_path / "coco", recipe=Recipe(seed=1, train=4, val=2, test=1, height=96, width=160))
    for split in ("train", "val"):
        config = write_config(
            tmp_path, f"rpn_{split}", model_text("RPN") + RPN, split=split, proposals=False, train="[]"
        )
        weights = tmp_path / "rpn.pth"
        if not weights.exists():
            model = build_model(load_config(config).data["model"], training=False)
            save_checkpoint(weights, {"meta": {}, "state_dict": model.state_dict()})
        out = str(tmp_path / f"{split}.pkl")
        assert main(["test", config, str(weights), "--out", out, "--device", "cpu"]) == 0
    fast = write_config(
        tmp_path, "fast", model_text("FastRCNN") + FAST, split="val", proposals=True, train="train_pipeline"
    )
    work_dir = tmp_path / "work"
    assert main(["train", fast, "--work-dir", str(work_dir), "--seed", "1", "--device", "cpu"]) == 0
    out = tmp_path / "found.pkl"
    command = ["test", fast, str(work_dir / "latest.pth"), "--out", str(out), "--eval", "bbox"]
    assert main([*command, "--device", "cpu"]) == 0
    assert "bbox_mAP" in capsys.readouterr().out
    results = pickle.loads(out.read_bytes())
    assert [len(classes) for classes in results] == [7, 7]
    assert sum(len(boxes) for boxes in results[0]) > 0
    (tmp_path / "val.pkl").write_bytes((tmp_path / "train.pkl").read_bytes())
    assert main([*command, "--device", "cpu"]) == 1
    assert "expected 2" in capsys.readouterr().err
