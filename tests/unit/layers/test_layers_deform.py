import pytest
import torch
from torch import nn
from torch.nn import functional

from detector.errors import ConfigError
from detector.layers.conv import ConvModule, make_conv
from detector.layers.conv_aws import ConvAWS2d
from detector.layers.deform_conv import (
    DeformConv2d,
    DeformConv2dPack,
    ModulatedDeformConv2d,
    ModulatedDeformConv2dPack,
)
from detector.layers.sac import SAConv2d
from detector.structures.specs import ConvSpec, NormSpec


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_fresh_pack_is_an_ordinary_convolution(stride):
    conv = DeformConv2dPack(4, 6, 3, stride=stride, padding=2, dilation=2, groups=2, deform_groups=2)
    x = torch.randn(2, 4, 9, 7)
    torch.testing.assert_close(
        conv(x), functional.conv2d(x, conv.weight, None, stride, 2, 2, 2), rtol=1e-4, atol=1e-5
    )


def test_a_fresh_modulated_pack_is_half_a_convolution_and_its_bias():
    conv = ModulatedDeformConv2dPack(4, 6, 3, padding=1)
    with torch.no_grad():
        conv.bias.fill_(3.0)
    x = torch.randn(2, 4, 9, 7)
    torch.testing.assert_close(
        conv(x), 0.5 * functional.conv2d(x, conv.weight, padding=1) + 3.0, rtol=1e-4, atol=1e-5
    )


def test_offsets_are_y_then_x():
    conv = DeformConv2d(1, 1, 1)
    with torch.no_grad():
        conv.weight.fill_(1.0)
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    offset = torch.zeros(1, 2, 3, 3)
    offset[0, 0], offset[0, 1, 1, 1] = 1.0, 0.5  # one row down everywhere, half a column right at the centre
    assert conv(x, offset).flatten().tolist() == [3, 4, 5, 6, 7.5, 8, 0, 0, 0]


def test_the_last_third_of_the_predictions_is_the_mask():
    conv = ModulatedDeformConv2dPack(1, 1, 1, bias=False)
    with torch.no_grad():
        conv.weight.fill_(1.0)
        conv.conv_offset.bias.copy_(torch.tensor([1.0, 0.0, 50.0]))  # a row down, mask 1
    x = torch.arange(4.0).reshape(1, 1, 2, 2)
    assert conv(x).flatten().tolist() == [2.0, 3.0, 0.0, 0.0]
    bare = ModulatedDeformConv2d(1, 1, 1, bias=False)
    assert bare(x, torch.zeros(1, 2, 2, 2), torch.zeros(1, 1, 2, 2)).abs().sum() == 0


@pytest.mark.parametrize(
    ("kind", "bias", "keys"),
    [
        ("DCN", False, {"weight", "conv_offset.weight", "conv_offset.bias"}),
        ("DCNv2", True, {"weight", "bias", "conv_offset.weight", "conv_offset.bias"}),
        ("ConvAWS", False, {"weight", "weight_gamma", "weight_beta"}),
    ],
)
def test_keys_and_layout_version(kind, bias, keys):
    conv = make_conv(ConvSpec(type=kind, deform_groups=2), 4, 4, 3, padding=1, bias=bias)
    state = conv.state_dict()
    assert set(state) == keys
    assert state._metadata[""]["version"] == (2 if kind.startswith("DCN") else 1)
    if kind == "DCNv2":
        assert tuple(state["conv_offset.weight"].shape) == (2 * 27, 4, 3, 3)


def test_no_images_and_maps_smaller_than_the_kernel_are_fine():
    conv = ModulatedDeformConv2dPack(4, 6, 3, padding=1)
    assert conv(torch.randn(0, 4, 5, 5)).shape == (0, 6, 5, 5)
    assert conv(torch.randn(1, 4, 1, 2)).shape == (1, 6, 1, 2)


def test_refusals():
    with pytest.raises(ConfigError, match="DCNv2"):
        make_conv(ConvSpec(type="DCN"), 4, 4, 3)
    with pytest.raises(ConfigError, match="deform_groups=3"):
        make_conv(ConvSpec(type="DCNv2", deform_groups=3), 4, 4, 3)
    with pytest.raises(ConfigError, match="stage_with_dcn"):
        ConvSpec(type="DCN", fallback_on_stride=True)
    with pytest.raises(ConfigError, match="ConvAWS"):
        make_conv(ConvSpec(type="DCNv3"), 4, 4, 3)
    with pytest.raises(ConfigError, match="kernel_size 3"):
        SAConv2d(4, 4, 5, use_deform=True)


def test_a_conv_module_keeps_the_zero_offsets():
    block = ConvModule(4, 4, 3, padding=1, conv_cfg=ConvSpec(type="DCNv2"), norm_cfg=NormSpec(type="BN"))
    with torch.no_grad():
        block.conv.conv_offset.weight.fill_(1.0)
    block.init_weights()
    assert block.conv.conv_offset.weight.abs().sum() == 0
    assert block.conv.bias is None
    assert block.conv.weight.abs().max() <= 1 / 6  # 1 / sqrt(4 * 9)


def test_standardised_weight_by_hand():
    conv = ConvAWS2d(2, 1, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1))  # mean 2, unbiased variance 2
        conv.weight_gamma.fill_(4.0)
        conv.weight_beta.fill_(10.0)
    step = 4 / (2 + 1e-5) ** 0.5
    torch.testing.assert_close(conv.standardised_weight().flatten(), torch.tensor([10 - step, 10 + step]))


@pytest.mark.parametrize("use_deform", [False, True])
def test_a_fresh_switchable_convolution_is_its_standardised_self(use_deform):
    conv = SAConv2d(4, 6, 3, stride=2, padding=1, bias=False, use_deform=use_deform)
    x = torch.randn(2, 4, 9, 8)
    torch.testing.assert_close(conv(x), ConvAWS2d.forward(conv, x), rtol=1e-4, atol=1e-5)


def test_the_switch_leads_to_the_dilated_kernel():
    conv = SAConv2d(4, 6, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.switch.bias.zero_()
        conv.weight_diff.fill_(0.1)
    x = torch.randn(1, 4, 9, 8)
    wanted = functional.conv2d(x, conv.standardised_weight() + 0.1, padding=3, dilation=3)
    torch.testing.assert_close(conv(x), wanted)


@pytest.mark.parametrize("kind", ["DCN", "DCNv2", "ConvAWS", "SAC"])
def test_meta_device(kind):
    with torch.device("meta"):
        conv = make_conv(ConvSpec(type=kind), 4, 4, 3, padding=1, bias=False)
    assert all(p.is_meta for p in conv.parameters())
    assert isinstance(conv, nn.Module)
