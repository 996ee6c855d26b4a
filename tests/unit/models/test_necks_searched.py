import pytest
import torch

from detector.errors import ConfigError
from detector.layers.merge_cells import ConcatCell, GlobalPoolingCell, SumCell, resize
from detector.layers.pre_activation import PreActConvModule
from detector.models.necks.channel_mapper import ChannelMapper
from detector.models.necks.fpg import FPG, TransitionSpec
from detector.models.necks.fpn import FPN, PAFPN
from detector.models.necks.hrfpn import HRFPN
from detector.models.necks.nas_fpn import NASFPN
from detector.structures.specs import NormSpec, UpsampleSpec

BN = NormSpec(type="BN")


def maps(channels, side=16, batch=1):
    return [torch.randn(batch, c, side >> i, side >> i) for i, c in enumerate(channels)]


def test_resize_pads_before_pooling():
    x = torch.arange(1.0, 26).reshape(1, 1, 5, 5)
    assert resize(x, (5, 5), "nearest") is x
    assert resize(x, (10, 10), "nearest").shape == (1, 1, 10, 10)
    # padded to 6 x 6 below and right, then 2 x 2 maxima
    assert resize(x, (3, 3), "nearest")[0, 0].tolist() == [[7, 9, 10], [17, 19, 20], [22, 24, 25]]
    assert resize(x, (3, 8), "nearest").shape == (1, 1, 3, 8)


def test_cells_by_hand():
    a, b = torch.full((1, 1, 2, 2), 2.0), torch.zeros(1, 1, 2, 2)
    assert SumCell(with_out_conv=False)(a, b).unique().tolist() == [2.0]
    assert GlobalPoolingCell(with_out_conv=False)(a, b).unique().tolist() == [1.0]  # 0 + sigmoid(0) * 2
    assert ConcatCell(with_out_conv=False)(a, b).shape == (1, 2, 2, 2)
    cell = ConcatCell(8, 4, with_input1_conv=True, with_input2_conv=True)
    assert cell(torch.randn(1, 4, 2, 2), torch.randn(1, 4, 8, 8)).shape == (1, 4, 8, 8)


def test_activation_first():
    block = PreActConvModule(1, 1, 1, inplace=False)
    block.conv.weight.data.fill_(-1)
    block.conv.bias.data.zero_()
    assert block(torch.tensor([-2.0, 3]).reshape(1, 1, 1, 2)).flatten().tolist() == [0, -3]


def test_nas_fpn_levels():
    neck = NASFPN(in_channels=[8, 16, 32], out_channels=4, num_outs=5, stack_times=2, norm_cfg=BN)
    outs = neck.eval()(maps((8, 16, 32)))
    assert [tuple(o.shape[1:]) for o in outs] == [(4, s, s) for s in (16, 8, 4, 2, 1)]
    assert "fpn_stages.0.gp_43_5.out_conv.conv.weight" not in neck.state_dict()
    with pytest.raises(ConfigError, match="num_outs=4"):
        NASFPN(in_channels=[8, 16, 32], out_channels=4, num_outs=4, stack_times=1)


def small_grid(**kwargs):
    down = TransitionSpec(type="interpolation_conv", norm_cfg=BN)
    settings = {"in_channels": [4, 8, 16], "out_channels": 4, "num_outs": 4, "across_down_trans": down}
    return FPG(**{**settings, "stack_times": 2, "paths": ["bu", "bu"], **kwargs})


def test_fpg_levels_and_skipped_nodes():
    neck = small_grid(skip_inds=[(0,), (), (), ()])
    assert [tuple(o.shape[1:]) for o in neck(maps((4, 8, 16)))] == [(4, s, s) for s in (16, 8, 4, 2)]
    assert len(neck.fpn_transitions[0][0]) == 0
    assert set(neck.fpn_transitions[1][0]) == {"across_lateral", "across_down", "across_skip"}
    assert "same_up" in neck.fpn_transitions[0][1]


def test_fpg_top_down():
    same = TransitionSpec(type="interpolation_conv")
    neck = small_grid(paths=["td", "bu"], same_down_trans=same, add_extra_convs=True)
    assert [o.shape[-1] for o in neck(maps((4, 8, 16)))] == [16, 8, 4, 2]


@pytest.mark.parametrize(
    "wrong", [{"paths": ["bu", "up"]}, {"paths": ["bu"]}, {"skip_inds": [()]}, {"inter_channels": [4]}]
)
def test_fpg_refuses(wrong):
    with pytest.raises(ConfigError):
        small_grid(**wrong)


def test_unknown_transition():
    with pytest.raises(ConfigError, match="'deconv'"):
        TransitionSpec(type="deconv")
    with pytest.raises(ConfigError):
        TransitionSpec(type="conv", order=("norm", "conv", "act"))


def test_channel_mapper_extra_levels_start_from_the_last_input():
    neck = ChannelMapper(in_channels=[4, 8], out_channels=6, kernel_size=1, num_outs=4)
    assert [tuple(o.shape[1:]) for o in neck(maps((4, 8)))] == [(6, s, s) for s in (16, 8, 4, 2)]
    assert neck.extra_convs[0].conv.in_channels == 8
    assert ChannelMapper(in_channels=[4], out_channels=6).extra_convs is None


@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
def test_hrfpn_levels(pooling):
    neck = HRFPN(in_channels=[2, 4, 8], out_channels=6, pooling_type=pooling)
    assert [o.shape[-1] for o in neck(maps((2, 4, 8)))] == [16, 8, 4, 2, 1]


def test_hrfpn_unknown_pooling():
    with pytest.raises(ConfigError, match="AVG or MAX"):
        HRFPN(in_channels=[2], out_channels=6, pooling_type="avg")


def test_fpn_fixed_factor_and_lateral_without_norm():
    neck = FPN(
        in_channels=[4, 8],
        out_channels=6,
        num_outs=2,
        norm_cfg=BN,
        no_norm_on_lateral=True,
        upsample_cfg=UpsampleSpec(mode="bilinear", scale_factor=2, align_corners=False),
    )
    assert [o.shape[-1] for o in neck(maps((4, 8)))] == [16, 8]
    assert "lateral_convs.0.bn.weight" not in neck.state_dict()
    assert "fpn_convs.0.bn.weight" in neck.state_dict()


def test_fpn_relu_before_extra_convs_starts_with_the_second_one():
    settings = {"in_channels": [4], "out_channels": 4, "num_outs": 3, "add_extra_convs": "on_lateral"}
    plain, relu = FPN(**settings), FPN(**settings, relu_before_extra_convs=True)
    relu.load_state_dict(plain.state_dict())
    x = [torch.randn(1, 4, 8, 8)]
    a, b = plain(x), relu(x)
    assert torch.equal(a[1], b[1])
    assert torch.equal(b[2], relu.fpn_convs[2](b[1].relu()))


@pytest.mark.parametrize("kind", [FPN, PAFPN])
def test_fpn_end_level(kind):
    neck = kind(in_channels=[4, 8, 16], out_channels=6, num_outs=2, start_level=0, end_level=1)
    assert [o.shape[-1] for o in neck(maps((4, 8, 16)))] == [16, 8]
    with pytest.raises(ConfigError):
        kind(in_channels=[4, 8, 16], out_channels=6, num_outs=3, end_level=1)
