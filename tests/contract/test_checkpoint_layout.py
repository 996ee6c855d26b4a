"""Checkpoints as the reference's runner writes them, made here, into models built from its own configs."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detector.build import build_model
from detector.checkpoint.files import Checkpoint, load_checkpoint
from detector.checkpoint.load import load_state
from detector.checkpoint.unpickle import Foreign
from detector.config import load_config
from detector.errors import CheckpointError

DCN = "dcn/faster_rcnn_r50_fpn_dconv_c3-c5_1x_coco.py"
#: the architecture of the config at a few per cent of its width
NARROW = {
    "model.backbone.base_channels": 4,
    "model.backbone.init_cfg": None,
    "model.neck.in_channels": [16, 32, 64, 128],
    "model.neck.out_channels": 8,
    "model.rpn_head.in_channels": 8,
    "model.rpn_head.feat_channels": 8,
    "model.roi_head.bbox_roi_extractor.out_channels": 8,
    "model.roi_head.bbox_head.in_channels": 8,
    "model.roi_head.bbox_head.fc_out_channels": 8,
}
CLASSES = tuple(f"class {i}" for i in range(80))
PACKS = "backbone.layer2.0.conv2"


def reference_config(name: str) -> Path:
    spec = importlib.util.find_spec("mmdet")  # located, never imported
    if spec is None or spec.origin is None:
        pytest.skip("the reference's configs come with the dev dependency mmdet")
    return Path(spec.origin).parent / ".mim" / "configs" / name


def build(name: str, options: dict[str, Any], device: str = "cpu") -> nn.Module:
    with torch.device(device):
        return build_model(load_config(reference_config(name), options).data["model"], training=False)


class Box:
    """A class of the writer's program."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Lines(dict):  # type: ignore[type-arg]
    """A dict of the writer's program, as its config class is one."""


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module that the writing program had; ``Box`` and ``Lines`` come from there."""
    module = types.ModuleType("writers_program")
    monkeypatch.setitem(sys.modules, "writers_program", module)
    for kind in (Box, Lines):
        monkeypatch.setattr(kind, "__module__", "writers_program")
        monkeypatch.setattr(module, kind.__name__, kind, raising=False)
    return module


def older(state: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """The same weights as a program of 2019 named them: packs of version 1, wrapped for several devices."""
    result: OrderedDict[str, Tensor] = OrderedDict()
    versions: OrderedDict[str, dict[str, int]] = OrderedDict({"": {"version": 1}})
    for key, value in state.items():
        old = key.replace(".conv_offset.", "_offset.")
        result[f"module.{old}"] = value
        if old != key:
            versions["module." + key.split(".conv_offset.")[0]] = {"version": 1}
    result._metadata = versions  # type: ignore[attr-defined]
    return result


def meta(foreign: types.ModuleType) -> dict[str, Any]:
    return {
        "env_info": "sys.platform: linux\nPyTorch: 1.3.0",
        "config": "work_dir = './work_dirs/faster_rcnn_r50_fpn_dconv_c3-c5_1x_coco'\n",
        "cfg": Lines(model=Lines(type="FasterRCNN"), hooks=[Box(1)]),
        "hook": Box(value={"epoch": 3}),
        "seed": None,
        "exp_name": "faster_rcnn_r50_fpn_dconv_c3-c5_1x_coco.py",
        "mmdet_version": "2.0.0rc0+f5d3a5c",
        "time": "Wed Mar 18 20:53:25 2020",
        "epoch": 12,
        "iter": 87960,
        "hook_msgs": {},
        "CLASSES": CLASSES,
    }


@pytest.mark.parametrize("new_format", [False, True], ids=["legacy", "zip"])
def test_an_old_file_with_foreign_objects_and_packs_of_version_1(
    tmp_path: Path, foreign: types.ModuleType, monkeypatch: pytest.MonkeyPatch, new_format: bool
) -> None:
    torch.manual_seed(0)
    source, target = build(DCN, NARROW), build(DCN, NARROW)
    source.init_weights()  # type: ignore[operator]
    wanted = {key: value.clone() for key, value in source.state_dict().items()}
    payload = {
        "meta": meta(foreign),
        "state_dict": older(wanted),
        "optimizer": {"state": {}, "param_groups": []},
    }
    torch.save(payload, tmp_path / "epoch_12.pth", _use_new_zipfile_serialization=new_format)
    monkeypatch.delitem(sys.modules, "writers_program")

    file = load_checkpoint(tmp_path / "epoch_12.pth")
    report = load_state(target, file, strict=True)

    assert file.foreign == ("writers_program.Box", "writers_program.Lines")
    assert isinstance(file.meta["cfg"], Foreign)
    assert file.meta["CLASSES"] == CLASSES
    assert file.meta["epoch"] == 12
    assert report.complete
    assert set(report.matched) == set(wanted)
    assert report.renamed[f"module.{PACKS}_offset.weight"] == f"{PACKS}.conv_offset.weight"
    assert len(report.renamed) == len(wanted)  # the prefix
    assert all(torch.equal(value, wanted[key]) for key, value in target.state_dict().items())


def test_packs_of_version_2_are_left_alone() -> None:
    source = build(DCN, NARROW)
    report = load_state(build(DCN, NARROW), source.state_dict())
    assert report.renamed == {}
    assert report.complete


def test_moving_averages_are_ignored() -> None:
    model = build(DCN, NARROW, "meta")
    state = dict(model.state_dict())
    averages = {f"ema_{key.replace('.', '_')}": value for key, value in state.items()}
    report = load_state(
        build(DCN, NARROW), {k: torch.zeros_like(v, device="cpu") for k, v in (state | averages).items()}
    )
    assert report.complete
    assert set(report.ignored) == set(averages)
    assert f"{len(averages)} ignored" in report.summary()


MASK = "mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py"
OTHER_CLASSES = {
    "model.roi_head.bbox_head.num_classes": 3,
    "model.roi_head.mask_head.num_classes": 3,
}


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            MASK,
            OTHER_CLASSES,
            ["another number of classes: the file's roi_head.bbox_head.fc_cls.weight has 80, the model's 3.",
             "of another shape (6): roi_head.bbox_head.fc_cls.weight [81, 1024] in the file, [4, 1024] in"],
        ),
        (
            "mask_rcnn/mask_rcnn_r101_fpn_1x_coco.py",
            {},
            ["another backbone (ResNet-50 in the file, ResNet-101 in the model)",
             "missing in the file (255): backbone.layer3.6.conv1.weight, ", "and 245 more"],
        ),
        (
            "mask_rcnn/mask_rcnn_x101_32x4d_fpn_1x_coco.py",
            {},
            ["another backbone (ResNet-50 in the file, ResNeXt-101-32x4d in the model)",
             "backbone.layer1.0.conv1.weight [64, 64, 1, 1] in the file, [128, 64, 1, 1] in the model"],
        ),
        (
            "faster_rcnn/faster_rcnn_r50_fpn_1x_coco.py",
            {},
            ["Mask R-CNN against Faster R-CNN",
             "not in the model (12): roi_head.mask_head.convs.0.conv.weight, "],
        ),
        (
            MASK,
            {"model.rpn_head.anchor_generator.ratios": [0.5, 1.0]},
            ["another number of anchors or other outputs per place: the file's rpn_head.rpn_cls.weight has 3",
             "of another shape (4): rpn_head.rpn_cls.weight"],
        ),
    ],
    ids=["classes", "deeper backbone", "other backbone", "no masks", "anchors"],
)  # fmt: skip
def test_what_does_not_fit_is_named(name: str, options: dict[str, Any], said: list[str]) -> None:
    weights = OrderedDict(build(MASK, {}, "meta").state_dict())
    file = Checkpoint(state_dict=weights, meta={"CLASSES": CLASSES}, path=Path("mask_rcnn.pth"))
    with pytest.raises(
        CheckpointError, match=r"^mask_rcnn\.pth: does not fit the model\. Likely cause: "
    ) as error:
        load_state(build(name, options, "meta"), file)
    for text in said:
        assert text in str(error.value)


def test_classes_of_a_head_with_several_outputs_per_place() -> None:
    name = "retinanet/retinanet_r50_fpn_1x_coco.py"
    weights = OrderedDict(build(name, {}, "meta").state_dict())
    file = Checkpoint(state_dict=weights, meta={"CLASSES": CLASSES})
    with pytest.raises(CheckpointError) as error:
        load_state(build(name, {"model.bbox_head.num_classes": 3}, "meta"), file)
    assert (
        "another number of classes (the file names 80 classes, the model has 3 classes): the file's "
        "bbox_head.retina_cls.weight has 720 outputs, the model's 27."
    ) in str(error.value)
