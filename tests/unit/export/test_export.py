"""`detector export`: files that detect what the model detects, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detector.cli import main
from detector.errors import ConfigError, MachineError
from detector.export import writing
from detector.export.checking import Agreement, compare, require, run_onnx, run_torchscript
from detector.export.exporting import default_shape, export_model
from detector.export.network import BoxNetwork, example_input, prepared
from detector.structures.samples import Detections
from tests.unit.inference.tiny_models import FASTER, GN, LOSS, MASK, PARTS, RPN, detector, write_model

CASCADE_HEAD = {
    "type": "Shared2FCBBoxHead",
    "in_channels": 16,
    "fc_out_channels": 32,
    "num_classes": 3,
    "reg_class_agnostic": True,
    "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
    "loss_cls": LOSS,
    "loss_bbox": {"type": "L1Loss"},
}
CASCADE = {
    **FASTER,
    "type": "CascadeRCNN",
    "roi_head": {
        "type": "CascadeRoIHead",
        "num_stages": 2,
        "stage_loss_weights": [1, 0.5],
        "bbox_roi_extractor": FASTER["roi_head"]["bbox_roi_extractor"],
        "bbox_head": [CASCADE_HEAD, CASCADE_HEAD],
    },
}
RETINA = {
    "type": "RetinaNet",
    "backbone": PARTS["backbone"],
    "neck": PARTS["neck"],
    "bbox_head": {
        "type": "RetinaHead",
        "num_classes": 3,
        "in_channels": 16,
        "feat_channels": 16,
        "stacked_convs": 1,
        "anchor_generator": PARTS["rpn_head"]["anchor_generator"],
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
    },
    "test_cfg": {"nms_pre": 100, "score_thr": 0.0, "nms": {"type": "nms", "iou_threshold": 0.5}},
}
MODELS = {"faster": FASTER, "cascade": CASCADE, "retina": RETINA, "rpn": RPN}


def spread(model: Any) -> Any:
    """Weights that give scores of their own to every place, and boxes not far from the anchors."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            factor = (0.1 if "reg" in name else 1.4) / parameter[0].numel() ** 0.5
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * factor)
    return model


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
@pytest.mark.parametrize("name", MODELS)
def test_a_file_detects_what_the_model_detects(tmp_path: Path, name: str, form: str) -> None:
    if form == "onnx":
        pytest.importorskip(
            "onnxruntime", reason="ONNX files are written and checked with the extra 'export'"
        )
        pytest.importorskip("onnx")
    model = spread(detector(tmp_path, MODELS[name]))
    done = export_model(model, form, out=tmp_path / "model", shape=(96, 128))
    assert (done.agreement.own, done.input_hw) == (done.agreement.file, (96, 128))
    assert done.agreement.own >= 20
    assert done.agreement.matched >= 0.98 * done.agreement.own
    # and on an image that had no part in the export
    pixels = example_input((96, 128), 7)
    run = (run_onnx if form == "onnx" else run_torchscript)(tmp_path / "model")
    with torch.no_grad():
        own = BoxNetwork(model, (96, 128)).detect(pixels)
    found = compare([own], [run(pixels)])
    assert found.matched >= 0.98 * max(found.own, found.file) > 0


def test_no_detection_is_played_back(tmp_path: Path) -> None:
    model = spread(detector(tmp_path, FASTER))
    model.roi_head.test_cfg = type(model.roi_head.test_cfg)(score_thr=0.3, max_per_img=10)
    export_model(model, "torchscript", out=tmp_path / "m.pt", shape=(64, 64))
    found = run_torchscript(tmp_path / "m.pt")(torch.full((1, 3, 64, 64), 0.0))
    with torch.no_grad():
        own = BoxNetwork(model, (64, 64)).detect(torch.full((1, 3, 64, 64), 0.0))
    assert len(found[0]) == len(own)


def test_the_file_says_what_it_takes(tmp_path: Path) -> None:
    done = export_model(spread(detector(tmp_path, RETINA)), "torchscript", out=tmp_path / "m.pt")
    extra = {"notes.json": ""}
    torch.jit.load(str(done.path), _extra_files=extra)
    notes = json.loads(extra["notes.json"])
    assert notes["input_hw"] == [96, 96]
    assert notes["normalise"] == {"mean": [120.0] * 3, "std": [60.0] * 3, "to_rgb": True}
    assert notes["classes"] == ["class 0", "class 1", "class 2"]


def test_the_default_input_is_that_of_a_photo(tmp_path: Path) -> None:
    assert default_shape(detector(tmp_path)) == (96, 96)


def test_masks_are_left_out_when_asked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Give --boxes-only"):
        prepared(detector(tmp_path, MASK), "onnx")
    done = export_model(
        spread(detector(tmp_path, MASK)),
        "torchscript",
        out=tmp_path / "m.pt",
        shape=(64, 64),
        boxes_only=True,
    )
    assert done.agreement.own > 0


def deformable() -> dict[str, Any]:
    dcn = {"type": "DCNv2", "deform_groups": 1}
    backbone = {"type": "ResNet", "depth": 50, "base_channels": 8, "norm_cfg": GN, "dcn": dcn}
    neck = {**PARTS["neck"], "in_channels": [32, 64, 128, 256]}
    return {**RETINA, "backbone": {**backbone, "stage_with_dcn": (False, False, True, True)}, "neck": neck}


def soft() -> dict[str, Any]:
    return {**RETINA, "test_cfg": {**RETINA["test_cfg"], "nms": {"type": "soft_nms", "iou_threshold": 0.5}}}


@pytest.mark.parametrize(
    ("model", "form", "message"),
    [
        (deformable(), "onnx", "deformable convolution.*--format torchscript"),
        (soft(), "torchscript", "soft_nms"),
        (RETINA, "tensorrt", "found 'tensorrt'; expected onnx or torchscript"),
    ],
    ids=["deformable", "soft nms", "format"],
)
def test_what_cannot_be_exported_says_so(
    tmp_path: Path, model: dict[str, Any], form: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        prepared(detector(tmp_path, model), form)


def test_an_operator_without_onnx_is_named_and_the_graph_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx", reason="ONNX files are written and checked with the extra 'export'")
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("detector.export.network._DEFORMABLE", ())
    model = detector(tmp_path, deformable())
    with pytest.raises(ConfigError, match="deform_conv2d"):
        export_model(model, "onnx", out=tmp_path / "m.onnx", shape=(64, 64))
    assert capfd.readouterr().out == ""


def test_other_kinds_of_models_are_refused() -> None:
    with pytest.raises(ConfigError, match="found a Linear; expected a single-stage or two-stage"):
        prepared(torch.nn.Linear(1, 1), "onnx")


@pytest.mark.parametrize("shape", [(100, 96), (0, 32), (-32, 32)], ids=str)
def test_shapes_fit_the_strides(tmp_path: Path, shape: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="multiples of 32"):
        export_model(detector(tmp_path), "torchscript", out=tmp_path / "m.pt", shape=shape)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PACKAGES", ("json", "no_such_package"))
    with pytest.raises(MachineError, match=r"found no no_such_package; .*uv sync --extra export"):
        writing.require_packages("onnx")
    writing.require_packages("torchscript")


def rows(boxes: list[list[float]], scores: list[float], labels: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    return torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), torch.tensor(labels, dtype=torch.long)


@pytest.mark.parametrize(
    ("file", "matched"),
    [
        (rows([[0, 0, 9, 9], [5, 5, 9, 9]], [0.9, 0.8], [0, 1]), 2),
        (rows([[5, 5, 9, 9], [0, 0, 9, 9.05]], [0.8, 0.9], [1, 0]), 2),
        (rows([[0, 0, 9, 9], [5, 5, 9, 9.5]], [0.9, 0.8], [0, 1]), 1),
        (rows([[0, 0, 9, 9], [5, 5, 9, 9]], [0.9, 0.7], [0, 1]), 1),
        (rows([[0, 0, 9, 9], [5, 5, 9, 9]], [0.9, 0.8], [1, 1]), 1),
        (rows([], [], []), 0),
    ],
    ids=["equal", "other order", "box", "score", "label", "none"],
)
def test_pairs_agree_in_label_score_and_box(file: tuple[Tensor, Tensor, Tensor], matched: int) -> None:
    boxes, scores, labels = rows([[0, 0, 9, 9], [5, 5, 9, 9]], [0.9, 0.8], [0, 1])
    found = compare([Detections(boxes, scores, labels)], [file])
    assert (found.own, found.file, found.matched) == (2, len(file[1]), matched)


def test_a_file_that_differs_is_refused() -> None:
    require(Agreement(own=100, file=100, matched=98, score=0, box=0))
    require(Agreement(own=0, file=0, matched=0, score=0, box=0))
    with pytest.raises(ConfigError, match="finds 90 boxes where the model finds 100"):
        require(Agreement(own=100, file=90, matched=90, score=0, box=0))


def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = spread(detector(tmp_path, RETINA))
    monkeypatch.setattr(
        "detector.export.exporting.run_torchscript", lambda _path: lambda _image: rows([], [], [])
    )
    with pytest.raises(ConfigError, match="The file is not kept"):
        export_model(model, "torchscript", out=tmp_path / "out" / "m.pt", shape=(64, 64))
    assert list((tmp_path / "out").iterdir()) == []


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, checkpoint = write_model(tmp_path, FASTER)
    out = tmp_path / "faster.pt"
    argv = ["export", str(config), str(checkpoint), "--format", "torchscript", "--out", str(out)]
    assert main([*argv, "--shape", "64", "96"]) == 0
    assert out.stat().st_size > 10_000
    assert "images (1, 3, 64, 96)" in capsys.readouterr().out
