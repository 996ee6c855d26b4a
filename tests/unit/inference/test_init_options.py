"""``init_detector``: forms of a config, names of published models, and options that take effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detector.checkpoint.files import save_checkpoint
from detector.config import load_config
from detector.errors import CheckpointError, ConfigError
from detector.inference import detect, init_detector
from detector.inference import model as model_module
from detector.inference.acceleration import BUCKET, accelerate_for_test, precision_on
from detector.structures.samples import Batch, Detections, ImageMeta
from detector.visualize import COLORS
from tests.unit.inference.tiny_models import FASTER, MASK, RPN, detector, image, write_config, write_model


def test_options_change_every_form_of_config(tmp_path: Path) -> None:
    from mmengine import Config as MmConfig

    path = write_config(tmp_path, FASTER)
    options = {"model.test_cfg.rcnn.max_per_img": 3}
    for form in (path, str(path), load_config(path), MmConfig.fromfile(path), {**load_config(path).data}):
        built: Any = init_detector(form, device="cpu", cfg_options=options)
        assert built.roi_head.test_cfg.max_per_img == 3
        assert len(detect(built, [image(96, 64)])[0]) <= 3


def test_a_published_name_brings_config_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its checkpoint says where no config of that name is here."""
    config, weights = write_model(tmp_path, FASTER)
    state = torch.load(weights, weights_only=True)["state_dict"]
    meta = {"CLASSES": ("a", "b", "c"), "config": config.read_text()}
    save_checkpoint(tmp_path / "zoo.pth", {"state_dict": state, "meta": meta})
    asked: list[str] = []
    monkeypatch.setattr(
        model_module, "resolve_weights", lambda uri: asked.append(uri) or tmp_path / "zoo.pth"
    )
    built: Any = init_detector("atss_r50_fpn_1x_coco", device="cpu")
    assert asked[0].endswith(".pth")
    assert "atss_r50_fpn_1x_coco" in asked[0]
    assert built.CLASSES == ("a", "b", "c")
    assert len(detect(built, [image(96, 64)])[0]) == 10


def test_weights_of_a_published_name_that_are_not_here_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTOR_OFFLINE", "1")
    monkeypatch.setenv("DETECTOR_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"mask_rcnn_r50_fpn_1x_coco_.*\.pth"):
        init_detector("mask_rcnn_r50_fpn_1x_coco", device="cpu")


def test_predict_gives_typed_detections(tmp_path: Path) -> None:
    built = detector(tmp_path, MASK)
    one = built.predict(image(96, 64))
    assert isinstance(one, Detections)
    assert one.masks is not None
    many = built.predict([image(96, 64), image(64, 96)], batch_size=1)
    assert [type(found) for found in many] == [Detections, Detections]
    torch.testing.assert_close(many[0].boxes, one.boxes)
    with pytest.raises(ConfigError, match="batch_size"):
        built.predict([image(96, 64)], batch_size=0)


def test_predict_takes_batches_of_network_inputs_too(tmp_path: Path) -> None:
    built = detector(tmp_path)
    batch = Batch(torch.zeros(2, 3, 64, 96), [ImageMeta((64, 96), (64, 96), (64, 96))] * 2)
    assert len(built.predict(batch, rescale=True)) == 2


@pytest.mark.parametrize("model", [FASTER, MASK, RPN], ids=["boxes", "masks", "proposals"])
def test_half_precision_takes_effect(tmp_path: Path, model: dict[str, Any]) -> None:
    full = detector(tmp_path, model)
    path = tmp_path / "w.pth"
    save_checkpoint(path, {"state_dict": full.state_dict(), "meta": {"CLASSES": ("a", "b", "c")}})
    half: Any = init_detector(tmp_path / "config.py", path, device="cpu", precision="bf16")
    kinds = {p.dtype for m in half.modules() if type(m) in (nn.Conv2d, nn.Linear) for p in m.parameters()}
    assert kinds == {torch.bfloat16}
    assert half.backbone.gn1.weight.dtype == torch.float32
    wanted, found = detect(full, [image(96, 64)])[0], detect(half, [image(96, 64)])[0]
    assert found.boxes.dtype == torch.float32
    assert not torch.equal(wanted.scores, found.scores)
    top = min(len(wanted), len(found))
    torch.testing.assert_close(found.scores[:top], wanted.scores[:top], rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("settings", "device", "wanted"),
    [
        ({}, "cuda", "fp32"),
        ({"fp16": {"loss_scale": 512.0}}, "cuda", "fp16"),
        ({"fp16": {"loss_scale": 512.0}}, "cpu", "fp32"),
        ({"precision": "fp16"}, "cpu", "fp32"),
        ({"precision": "bf16"}, "cpu", "bf16"),
    ],
    ids=["none", "fp16 on a GPU", "fp16 on a CPU", "by name on a CPU", "bf16 on a CPU"],
)
def test_a_test_runs_in_the_precision_of_its_config(
    settings: dict[str, Any], device: str, wanted: str
) -> None:
    assert precision_on(torch.device(device), settings) == wanted


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16"}], ids=["fp32", "bf16"])
def test_a_test_folds_batch_norms_on_request(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = {**FASTER, "backbone": {**FASTER["backbone"], "norm_cfg": {"type": "BN"}}}
    plain, picture = detector(tmp_path, model), image(96, 64)
    wanted = detect(plain, [picture])[0]
    folded = accelerate_for_test(plain, torch.device("cpu"), settings, fuse_conv_bn=True)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    found = detect(folded, [picture])[0]
    if settings:
        assert folded.get_parameter("backbone.conv1.bias").dtype == torch.bfloat16
        return
    torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.boxes, wanted.boxes, rtol=0, atol=1e-3)


def test_channels_last_takes_effect(tmp_path: Path) -> None:
    path = write_config(tmp_path, FASTER)
    for wanted in (True, False):
        built: Any = init_detector(path, device="cpu", channels_last=wanted)
        weight = built.backbone.layer1[0].conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == wanted


@pytest.mark.slow
def test_the_compiled_network_runs_once_per_bucket(tmp_path: Path) -> None:
    """The backend counts the graphs that it is given; sizes are rounded up to the bucket."""
    from torch import _dynamo

    plain = detector(tmp_path)
    path = tmp_path / "w.pth"
    save_checkpoint(path, {"state_dict": plain.state_dict(), "meta": {"CLASSES": ("a", "b", "c")}})
    _dynamo.reset()
    built: Any = init_detector(tmp_path / "config.py", path, device="cpu", compile="eager")
    shapes: list[tuple[int, ...]] = []
    built.backbone.conv1.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    options = {"data.test.pipeline.1.transforms.2.size_divisor": BUCKET}
    padded: Any = init_detector(tmp_path / "config.py", path, device="cpu", cfg_options=options)
    for size in ((96, 64), (96, 60), (96, 50), (64, 96)):
        wanted, found = detect(padded, [image(*size)])[0], detect(built, [image(*size)])[0]
        torch.testing.assert_close(found.boxes, wanted.boxes, rtol=0, atol=1e-3)
    assert set(shapes) == {(1, 3, 64, 128), (1, 3, 128, 64)}
    compiled = [frame for frame in _dynamo.utils.counters["stats"].items() if frame[0] == "unique_graphs"]
    assert compiled
    assert 0 < compiled[0][1] <= 2 * 3


@pytest.mark.parametrize(
    ("option", "value"),
    [("bbox_color", "green"), ("bbox_color", (0, 255, 0)), ("bbox_color", [[0, 255, 0]] * 3)],
    ids=str,
)
def test_colours_of_the_reference_are_understood(tmp_path: Path, option: str, value: Any) -> None:
    built = detector(tmp_path)
    picture = image(96, 64) // 4
    drawn = built.show_result(picture, detect(built, [picture])[0], score_thr=0.0, **{option: value})
    assert drawn.shape == picture.shape
    assert (drawn == COLORS["green"]).all(axis=2).any()


@pytest.mark.parametrize("value", ["no colour", (1, 2), (300, 0, 0), []], ids=str)
def test_other_colours_are_refused(tmp_path: Path, value: Any) -> None:
    built = detector(tmp_path)
    with pytest.raises(ConfigError, match="bbox_color"):
        built.show_result(image(96, 64), detect(built, [image(96, 64)])[0], bbox_color=value)


def test_a_copy_of_a_model_predicts_by_itself(tmp_path: Path) -> None:
    import copy

    built = detector(tmp_path)
    other = copy.deepcopy(built)
    other.roi_head.bbox_head.fc_cls.bias.data += torch.tensor([5.0, 0, 0, 0])
    assert not torch.equal(built.predict(image(96, 64)).scores, other.predict(image(96, 64)).scores)


def test_deformable_layers_stay_in_float32(tmp_path: Path) -> None:
    """torchvision's operation has no bfloat16 on the CPU; what is around them is in half precision."""
    dcn = {"type": "DCNv2", "deform_groups": 1, "fallback_on_stride": False}
    deep = {"depth": 50, "base_channels": 4, "norm_cfg": {"type": "GN", "num_groups": 4}}
    backbone = {**FASTER["backbone"], **deep, "dcn": dcn, "stage_with_dcn": (False, True, True, True)}
    model = {**FASTER, "backbone": backbone, "neck": {**FASTER["neck"], "in_channels": [16, 32, 64, 128]}}
    built: Any = init_detector(write_config(tmp_path, model), device="cpu", precision="bf16")
    layer = built.backbone.layer2[0].conv2
    assert {p.dtype for p in layer.parameters()} == {torch.float32}
    assert built.backbone.layer2[0].conv1.weight.dtype == torch.bfloat16
    assert detect(built, [image(96, 64)])[0].boxes.isfinite().all()
