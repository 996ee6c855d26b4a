"""Optimizers and mmcv's per-parameter rules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from detector.engine.optim import build_optimizer
from detector.errors import ConfigError


class DeformConv2dStub(nn.Module):
    """Shaped as a deformable convolution: own weight and bias, a child that computes offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(1))
        self.conv_offset = nn.Conv2d(2, 2, 1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
        self.depthwise = nn.Conv2d(4, 4, 1, groups=4)
        self.dcn = DeformConv2dStub()
        self.head = nn.Linear(2, 2)


def settings(model: nn.Module, **config: Any) -> dict[str, tuple[float, float]]:
    """Parameter name -> (rate, decay)."""
    optimizer = build_optimizer(model, {"type": "SGD", "lr": 1.0, "weight_decay": 0.1, **config})
    names = {id(param): name for name, param in model.named_parameters()}
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}


@pytest.mark.parametrize(
    ("rules", "name", "expected"),
    [
        ({"norm_decay_mult": 0.0}, "backbone.1.weight", (1.0, 0.0)),
        ({"norm_decay_mult": 0.0}, "backbone.0.weight", (1.0, 0.1)),
        ({"bias_lr_mult": 2.0, "bias_decay_mult": 0.0}, "head.bias", (2.0, 0.0)),
        ({"bias_lr_mult": 2.0, "bias_decay_mult": 0.0}, "backbone.1.bias", (1.0, 0.1)),
        ({"bias_lr_mult": 2.0, "bias_decay_mult": 0.0}, "dcn.conv_offset.bias", (1.0, 0.1)),
        ({"bias_lr_mult": 2.0, "norm_decay_mult": 0.0}, "backbone.1.bias", (1.0, 0.0)),
        ({"dwconv_decay_mult": 0.5}, "depthwise.weight", (1.0, 0.05)),
        ({"dcn_offset_lr_mult": 0.1}, "dcn.conv_offset.weight", (0.1, 0.1)),
        ({"dcn_offset_lr_mult": 0.1}, "dcn.weight", (1.0, 0.1)),
        ({"custom_keys": {"backbone": {"lr_mult": 0.1}}}, "backbone.0.weight", (0.1, 0.1)),
        ({"custom_keys": {"backbone": {"lr_mult": 0.1}}}, "head.weight", (1.0, 0.1)),
        (
            {"custom_keys": {"backbone": {"lr_mult": 0.1}, "backbone.1": {"decay_mult": 0.0}}},
            "backbone.1.weight",
            (1.0, 0.0),
        ),
        (
            {"custom_keys": {"backbone": {"lr_mult": 0.1}}, "norm_decay_mult": 0.0},
            "backbone.1.weight",
            (0.1, 0.1),
        ),
        ({"custom_keys": {"head.w": {"lr_mult": 3.0}}}, "head.weight", (3.0, 0.1)),
    ],
)
def test_paramwise_rules(rules: dict[str, Any], name: str, expected: tuple[float, float]) -> None:
    assert settings(Net(), paramwise_cfg=rules)[name] == pytest.approx(expected)


def test_one_group_without_rules_in_named_parameter_order() -> None:
    model = Net()
    optimizer = build_optimizer(model, {"type": "AdamW", "lr": 0.01, "betas": [0.8, 0.9]})
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    assert optimizer.param_groups[0]["initial_lr"] == 0.01


@pytest.mark.parametrize("rules", [None, {"norm_decay_mult": 0.0}])
def test_frozen_parameters_never_move(rules: dict[str, Any] | None) -> None:
    model = Net()
    model.backbone.requires_grad_(False)
    before = model.backbone[0].weight.clone()
    optimizer = build_optimizer(
        model, {"type": "SGD", "lr": 1.0, "momentum": 0.9, "weight_decay": 0.1, "paramwise_cfg": rules}
    )
    model.head(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert torch.equal(model.backbone[0].weight, before)


def test_shared_parameter_needs_bypass() -> None:
    model = Net()
    model.tied = nn.Linear(2, 2)
    model.tied.weight = model.head.weight
    with pytest.raises(ConfigError, match="bypass_duplicate"):
        settings(model, paramwise_cfg={"norm_decay_mult": 0.0})
    assert len(settings(model, paramwise_cfg={"norm_decay_mult": 0.0, "bypass_duplicate": True})) == len(
        list(model.parameters())
    )


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"type": "AdamX", "lr": 1.0}, "'Adam"),
        ({"type": "SGD", "lr": 1.0, "momentun": 0.9}, "'momentum'"),
        ({"type": "SGD", "lr": -1.0}, "learning rate"),
        (
            {"type": "SGD", "lr": 1.0, "weight_decay": 0.1, "paramwise_cfg": {"norm_decay": 0}},
            "norm_decay_mult",
        ),
        ({"type": "SGD", "lr": 1.0, "paramwise_cfg": {"norm_decay_mult": 0}}, "weight_decay"),
        ({"type": "SGD", "weight_decay": 0.1, "paramwise_cfg": {"norm_decay_mult": 0}}, "optimizer.lr"),
        ({"type": "SGD", "lr": 1.0, "constructor": "LayerDecay"}, "constructor"),
    ],
)
def test_mistakes_are_named(config: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        build_optimizer(Net(), config)


class ConvNeXt(nn.Module):
    """Named as the backbone's parts are."""

    def __init__(self) -> None:
        super().__init__()
        self.downsample_layers = nn.ModuleList([nn.Conv2d(1, 1, 1) for _ in range(4)])
        self.stages = nn.ModuleList([nn.ModuleList([nn.Linear(1, 1) for _ in range(9)]) for _ in range(4)])


class NextNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = ConvNeXt()
        self.head = nn.Linear(2, 2)


DECAY = {
    "constructor": "LearningRateDecayOptimizerConstructor",
    "paramwise_cfg": {"decay_rate": 0.5, "decay_type": "layer_wise", "num_layers": 6},
}


@pytest.mark.parametrize(
    ("name", "depth", "decay"),
    [
        ("backbone.downsample_layers.0.weight", 0, 0.1),
        ("backbone.downsample_layers.0.bias", 0, 0.0),
        ("backbone.stages.0.8.weight", 1, 0.1),
        ("backbone.downsample_layers.1.weight", 2, 0.1),
        ("backbone.stages.1.0.weight", 2, 0.1),
        ("backbone.stages.2.2.weight", 3, 0.1),
        ("backbone.stages.2.8.weight", 5, 0.1),
        ("backbone.downsample_layers.3.weight", 6, 0.1),
        ("backbone.stages.3.0.bias", 6, 0.0),
        ("head.weight", 7, 0.1),
    ],
)
def test_rates_fall_with_the_depth(name: str, depth: int, decay: float) -> None:
    assert settings(NextNet(), **DECAY)[name] == (pytest.approx(0.5 ** (7 - depth)), decay)


def test_rates_fall_with_the_stage() -> None:
    rules = {**DECAY, "paramwise_cfg": {"decay_rate": 0.5, "decay_type": "stage_wise", "num_layers": 6}}
    found = settings(NextNet(), **rules)
    assert found["backbone.downsample_layers.3.weight"][0] == pytest.approx(0.5**7)
    assert found["backbone.stages.3.0.weight"][0] == pytest.approx(0.5**3)
    assert found["head.weight"][0] == 1.0


@pytest.mark.parametrize(
    ("model", "change", "named"),
    [
        (Net(), {}, "found the backbone Sequential"),
        (NextNet(), {"paramwise_cfg": {"decay_rate": 2.0, "num_layers": 6}}, "decay_rate"),
        (NextNet(), {"paramwise_cfg": {"decay_rate": 0.5, "num_layers": 0}}, "num_layers"),
        (NextNet(), {"paramwise_cfg": {**DECAY["paramwise_cfg"], "decay_type": "layer"}}, "'layer_wise'"),
        (NextNet(), {"constructor": "LayerDecay"}, "LearningRateDecayOptimizerConstructor"),
    ],
    ids=["backbone", "rate", "layers", "type", "constructor"],
)
def test_mistakes_of_layer_decay_are_named(model: nn.Module, change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        settings(model, **{**DECAY, **change})
