"""``detector checkpoint show`` and ``convert``, and safetensors in both directions."""

from __future__ import annotations

import argparse
import datetime
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detector.checkpoint.describe import guess_backbone
from detector.checkpoint.exchange import plain_meta
from detector.checkpoint.files import load_checkpoint, sha256_file, verify_checkpoint
from detector.cli import main
from detector.errors import CheckpointError


def state() -> OrderedDict[str, Tensor]:
    shared = torch.arange(6, dtype=torch.float32)
    result = OrderedDict(
        {
            "backbone.conv.weight": shared.reshape(2, 3).T,
            "backbone.bn.running_mean": shared[:3],
            "backbone.bn.num_batches_tracked": torch.tensor(7),
            "head.half": torch.ones(2, dtype=torch.float16),
            "ema_head_half": torch.zeros(2, dtype=torch.float16),
        }
    )
    result._metadata = OrderedDict({"": {"version": 1}, "head": {"version": 2}})  # type: ignore[attr-defined]
    return result


META: dict[str, Any] = {
    "CLASSES": ("cat", "dog"),
    "PALETTE": [(1, 2, 3), (4, 5, 6)],
    "epoch": 12,
    "iter": np.int64(300),
    "mmdet_version": "2.28.2",
    "config": "a = 1\nwork_dir = './work_dirs/faster_rcnn_r50_fpn_1x_coco'\n",
    "when": datetime.date(2020, 1, 2),
    "nested": {"kept": [1.5, None], "lost": datetime.date(2020, 1, 2)},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    payload = {"meta": META, "state_dict": state(), "optimizer": {"state": {}}}
    torch.save(payload, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    return tmp_path / "a.pth"


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_converted_files_load_as_the_first_one(
    file: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = file.parent / f"b.{ending}"
    assert main(["checkpoint", "convert", str(file), str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(out)
    assert printed.err.strip() == "left out: the optimizer, meta.when, meta.nested.lost"
    first, second = load_checkpoint(file), load_checkpoint(out)
    assert set(second.state_dict) == set(state())
    for key, value in first.state_dict.items():
        assert torch.equal(second.state_dict[key], value)
        assert second.state_dict[key].dtype == value.dtype
    assert second.state_dict._metadata["head"] == {"version": 2}  # type: ignore[attr-defined]
    assert second.meta["CLASSES"] == ("cat", "dog")
    assert second.meta["epoch"] == 12
    assert second.meta["iter"] == 300
    assert second.meta["nested"] == {"kept": [1.5, None]}
    assert second.optimizer is None
    assert second.foreign == ()
    if ending == "pth":
        assert verify_checkpoint(out)


def test_others_read_the_strings_of_a_safetensors_file(file: Path) -> None:
    from safetensors import safe_open

    out = file.parent / "b.safetensors"
    main(["checkpoint", "convert", str(file), str(out)])
    with safe_open(str(out), framework="pt") as opened:  # type: ignore[no-untyped-call]
        notes = opened.metadata()
    assert all(isinstance(value, str) for value in notes.values())
    assert notes["format"] == "pt"
    assert json.loads(notes["classes"]) == ["cat", "dog"]
    assert json.loads(notes["meta"])["mmdet_version"] == "2.28.2"


def test_show_prints_what_the_file_says(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "show", str(file)]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    shown = {key.strip(): value.strip() for key, value in lines.items()}
    assert shown["sha256"] == sha256_file(file)
    assert shown["size"].endswith("MB, legacy")
    assert shown["weights"] == "5 tensors, 8 parameters, float16, float32, int64"
    assert shown["config"] == "faster_rcnn_r50_fpn_1x_coco"
    assert (shown["epoch"], shown["iter"], shown["mmdet_version"]) == ("12", "300", "2.28.2")
    assert shown["classes"] == "2: cat, dog"
    assert shown["optimizer"] == "inside"
    assert shown["average"] == "1 tensors of a moving average"
    assert shown["not loaded"] == "datetime.date"


def test_show_as_json_with_keys(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["checkpoint", "show", str(file), "--keys", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["keys"]["head.half"] == [[2], "float16"]
    assert found["serialisation"] == "legacy"
    main(["checkpoint", "show", str(file), "--keys"])
    assert "head.half  [2]  float16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "nowhere.pth"], "found no file 'nowhere.pth'"),
        (["convert", "a.pth", "b.onnx"], "expected .safetensors or .pth"),
        (["convert", "a.pth", "a.pth"], "is the file that is read"),
    ],
)
def test_wrong_files(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(file.parent)
    assert main(["checkpoint", *arguments]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_cut_safetensors_are_refused(file: Path, share: float) -> None:
    out = file.parent / "b.safetensors"
    main(["checkpoint", "convert", str(file), str(out)])
    data = out.read_bytes()
    out.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"b\.safetensors"):
        load_checkpoint(out)


def test_tensors_with_attributes_of_their_own_are_read(tmp_path: Path) -> None:
    marked = torch.ones(3)
    marked.origin = "here"  # type: ignore[attr-defined]
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.origin = "there"  # type: ignore[attr-defined]
    torch.save({"state_dict": {"a": marked, "b": parameter}}, tmp_path / "a.pth")
    got = load_checkpoint(tmp_path / "a.pth").state_dict
    assert torch.equal(got["a"], torch.ones(3))
    assert torch.equal(got["b"], torch.zeros(2))


def test_plain_meta_keeps_kinds() -> None:
    kept, dropped = plain_meta({"t": (1, np.float32(0.5)), "d": {1: "x"}, "s": {1, 2}, "n": None, "b": True})
    assert kept == {"t": (1, 0.5), "d": {"1": "x"}, "n": None, "b": True}
    assert dropped == ("s",)


def resnet(counts: tuple[int, ...], *, width: int = 64, inner: int = 64) -> dict[str, tuple[int, ...]]:
    keys: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}
    for stage, count in enumerate(counts, 1):
        for block in range(count):
            keys[f"layer{stage}.{block}.conv1.weight"] = (width, 64, 1, 1)
            keys[f"layer{stage}.{block}.conv2.weight"] = (width, inner, 3, 3)
            keys[f"layer{stage}.{block}.conv3.weight"] = (256, width, 1, 1)
    return keys


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (resnet((3, 4, 6, 3)), "ResNet-50"),
        ({f"module.backbone.{k}": v for k, v in resnet((3, 4, 23, 3)).items()}, "ResNet-101"),
        ({f"backbone.{k}": v for k, v in resnet((3, 4, 6)).items()}, "ResNet-50"),
        (resnet((3, 4, 23, 3), width=128, inner=4), "ResNeXt-101-32x4d"),
        ({k: v for k, v in resnet((3, 4, 6, 3)).items() if "conv3" not in k}, "ResNet-34"),
        (resnet((5, 5, 5, 5)), "ResNet with 5-5-5-5 blocks"),
        ({"backbone.patch_embed.projection.weight": (192, 3, 4, 4)}, "Swin-L"),
        ({"backbone.stage4.0.branches.0.0.conv1.weight": (32, 32, 3, 3)}, "HRNet-W32"),
        ({"backbone.conv_res_block1.conv.conv.weight": (64, 32, 3, 3)}, "Darknet-53"),
        ({"weight": (1,)}, None),
    ],
)
def test_backbones_by_their_keys(keys: dict[str, tuple[int, ...]], name: str | None) -> None:
    assert guess_backbone(keys) == name


def test_the_commands_have_help() -> None:
    from detector.cli import build_parser

    parser = build_parser("checkpoint")
    args = parser.parse_args(["checkpoint", "convert", "a.pth", "b.safetensors"])
    assert isinstance(args, argparse.Namespace)
    assert args.action == "convert"
