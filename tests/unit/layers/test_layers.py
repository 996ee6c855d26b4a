import pytest
import torch
from torch import nn

from detector.errors import ConfigError
from detector.layers.conv import ConvModule, ConvWS2d
from detector.layers.init import apply_rules
from detector.layers.norm import add_norm, norm_name
from detector.structures.specs import ActSpec, InitSpec, NormSpec


@pytest.mark.parametrize(
    ("kind", "index", "name"), [("BN", 1, "bn1"), ("SyncBN", 3, "bn3"), ("GN", 2, "gn2"), ("LN", "", "ln")]
)
def test_norm_names(kind, index, name):
    assert norm_name(NormSpec(type=kind), index) == name


def test_unknown_norm_names_the_known():
    with pytest.raises(ConfigError, match="BN"):
        add_norm(nn.Module(), NormSpec(type="BNN"), 4)


def test_norm_requires_grad_follows_the_spec():
    module = nn.Module()
    add_norm(module, NormSpec(type="BN", requires_grad=False), 4, 1)
    assert not any(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize(
    ("norm", "keys"),
    [
        (None, ["conv.weight", "conv.bias"]),
        (NormSpec(type="GN", num_groups=2), ["conv.weight", "gn.weight", "gn.bias"]),
    ],
)
def test_conv_module_keys(norm, keys):
    assert list(ConvModule(4, 4, 3, norm_cfg=norm).state_dict()) == keys


def test_conv_module_order_is_conv_norm_activation():
    block = ConvModule(2, 2, 1, norm_cfg=NormSpec(type="BN"), act_cfg=ActSpec(type="ReLU")).eval()
    x = torch.randn(1, 2, 4, 4)
    torch.testing.assert_close(block(x), block.bn(block.conv(x)).relu())


def test_weight_standardised_conv_ignores_scale_and_shift_of_its_weight():
    conv = ConvWS2d(3, 4, 3, eps=0.0)
    x = torch.randn(1, 3, 8, 8)
    before = conv(x)
    with torch.no_grad():
        conv.weight.mul_(7).add_(3)
    torch.testing.assert_close(conv(x), before, rtol=1e-3, atol=1e-4)


def test_rules_touch_only_named_layers():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 4), nn.BatchNorm2d(4))
    with torch.no_grad():
        model[1].weight.fill_(9.0)
    rules = [
        InitSpec(type="Constant", val=2.0, bias=1.0, layer="Conv2d"),
        InitSpec(type="Constant", val=3.0, layer=["_BatchNorm"]),
    ]
    apply_rules(model, rules)
    assert model[0].weight.unique().tolist() == [2.0]
    assert model[0].bias.unique().tolist() == [1.0]
    assert model[1].weight.unique().tolist() == [9.0]
    assert model[2].weight.unique().tolist() == [3.0]
