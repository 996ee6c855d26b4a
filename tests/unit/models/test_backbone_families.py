import pytest
import torch

from detector.errors import ConfigError
from detector.layers.drop_path import DropPath, depth_rates
from detector.layers.patches import PatchMerging, missing_cover, pad_to_cover, to_map, to_tokens
from detector.models.backbones.hrnet import HRNet, HRNetSpec, HRStageSpec
from detector.models.backbones.pvt import PyramidVisionTransformer, PyramidVisionTransformerV2
from detector.models.backbones.regnet import ARCHITECTURES, RegNet, RegNetSpec, plan
from detector.models.backbones.res2net import Res2Net
from detector.models.backbones.resnest import ResNeSt, SplitAttentionConv2d
from detector.models.backbones.swin import (
    SwinTransformer,
    WindowMSA,
    join_windows,
    region_mask,
    split_windows,
)


def on_meta(kind, **kwargs):
    with torch.device("meta"):
        return kind(**kwargs)


def shapes(net, height=64, width=96):
    return [tuple(m.shape[1:]) for m in net.eval()(torch.zeros(1, 3, height, width, device="meta"))]


def pyramid(channels, height=64, width=96):
    return [(c, height // s, width // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)]


@pytest.mark.parametrize(
    ("arch", "widths", "blocks"),
    [
        ("regnetx_400mf", (32, 64, 160, 384), (1, 2, 7, 12)),
        ("regnetx_3.2gf", (96, 192, 432, 1008), (2, 6, 15, 2)),
        ("regnetx_8.0gf", (80, 240, 720, 1920), (2, 5, 15, 1)),
    ],
)
def test_regnet_widths(arch, widths, blocks):
    stages = plan(ARCHITECTURES[arch])
    assert tuple(s.width for s in stages) == widths
    assert tuple(s.blocks for s in stages) == blocks
    assert all(s.groups * s.group_width == s.width for s in stages)


def test_regnet_shapes_and_errors():
    assert shapes(on_meta(RegNet, arch="regnetx_400mf")) == pyramid((32, 64, 160, 384))
    with pytest.raises(ConfigError, match="unknown arch 'x'"):
        on_meta(RegNet, arch="x")
    with pytest.raises(ConfigError, match="multiple of 8"):
        plan(RegNetSpec(w0=20, wa=1.0, wm=2.0, group_w=8, depth=3))
    with pytest.raises(ConfigError, match="one per stage"):
        on_meta(RegNet, arch="regnetx_400mf", strides=(2, 2))


def test_resnest_pools_where_it_strides():
    net = on_meta(ResNeSt, depth=50)
    assert shapes(net) == pyramid((256, 512, 1024, 2048))
    assert net.layer2[0].avd_layer.stride == 2
    assert net.layer2[0].conv2.conv.stride == (1, 1)
    assert net.layer2[1].avd_layer is None
    assert tuple(net.layer1[0].conv2.fc1.weight.shape) == (32, 64, 1, 1)


def test_split_attention_weights_sum_to_one():
    logits = torch.randn(2, 8, 1, 1)
    layer = SplitAttentionConv2d(4, 4, groups=2, radix=2)
    weights = layer._weights(logits)
    assert weights.shape == (2, 2, 4, 1, 1)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 4, 1, 1))
    # group 1's first branch holds channels 4 and 5 of the logits, its second one 6 and 7
    expected = logits[:, 4:6] - logits[:, 6:8]
    torch.testing.assert_close(weights[:, 0, 2:4].logit(), expected)


def test_res2net_chains_only_after_the_first_block():
    net = on_meta(Res2Net, depth=50)
    assert shapes(net) == pyramid((256, 512, 1024, 2048))
    assert tuple(net.layer1[0].convs[0].weight.shape) == (26, 26, 3, 3)
    assert [block.opens for block in net.layer2] == [True, False, False, False]
    assert net.layer1[0].pool is None
    assert net.layer2[0].pool is not None
    with pytest.raises(ConfigError, match="at least 2"):
        on_meta(Res2Net, depth=50, scales=1)


def hrnet_spec(width=4):
    def stage(modules, branches):
        channels = tuple(width * 2**i for i in range(branches))
        return HRStageSpec(modules, branches, "BASIC", (1,) * branches, channels)

    first = HRStageSpec(1, 1, "BOTTLENECK", (1,), (4,))
    return HRNetSpec(first, stage(1, 2), stage(1, 3), stage(2, 4))


def test_hrnet_branches():
    net = on_meta(HRNet, extra=hrnet_spec())
    assert shapes(net) == pyramid((4, 8, 16, 32))
    assert [t is None for t in net.transition2] == [True, True, False]
    assert len(shapes(on_meta(HRNet, extra=hrnet_spec(), multiscale_output=False))) == 1


def test_hrnet_takes_any_size():
    maps = HRNet(extra=hrnet_spec())(torch.randn(1, 3, 50, 70))
    assert [tuple(m.shape[2:]) for m in maps] == [(13, 18), (7, 9), (4, 5), (2, 3)]


def test_hrnet_refuses_branches_that_do_not_fit():
    with pytest.raises(ConfigError, match="num_branches = 2"):
        HRStageSpec(1, 2, "BASIC", (1,), (4, 8))
    with pytest.raises(ConfigError, match="unknown block"):
        HRStageSpec(1, 1, "basic", (1,), (4,))


def test_norm_eval_and_zero_init_of_hrnet():
    net = HRNet(extra=hrnet_spec(), zero_init_residual=True).train()
    assert not net.bn1.training
    net.init_weights()
    assert net.stage2[0].branches[0][0].bn2.weight.abs().sum() == 0


def test_windows_split_and_join():
    x = torch.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    windows = split_windows(x, 2)
    assert windows.shape == (2, 6, 4, 3)
    assert windows[0, 1, :, 0].tolist() == [x[0, i, j, 0].item() for i in (0, 1) for j in (2, 3)]
    assert torch.equal(join_windows(windows, (4, 6), 2), x)


def test_region_mask_by_hand():
    mask = region_mask((2, 4), 2, 1, torch.zeros(()))
    assert mask.shape == (2, 4, 4)
    # rows are always apart here (one window high); columns only in the last window
    assert mask[0].tolist() == [[0, 0, -100, -100]] * 2 + [[-100, -100, 0, 0]] * 2
    assert mask[1].eq(0).sum() == 4


def test_relative_position_index_by_hand():
    layer = WindowMSA(4, 2, 2, qkv_bias=True, qk_scale=None, attn_drop_rate=0.0, proj_drop_rate=0.0)
    assert layer.relative_position_index.tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def small_swin(**kwargs):
    settings = {"embed_dims": 8, "depths": (2, 2), "num_heads": (1, 2), "strides": (4, 2), "window_size": 3}
    return SwinTransformer(**{**settings, "out_indices": (0, 1), **kwargs})


def test_swin_shapes_and_batch_independence():
    net = small_swin(use_abs_pos_embed=True).eval()
    net.init_weights()
    x = torch.randn(2, 3, 30, 50)
    both, second = net(x), net(x[1:])
    assert [tuple(m.shape[1:]) for m in both] == [(8, 8, 13), (16, 4, 7)]
    for a, b in zip(both, second, strict=True):
        torch.testing.assert_close(a[1:], b)


def test_swin_frozen_stages_and_errors():
    net = small_swin(frozen_stages=1).train()
    frozen = {".".join(n.split(".")[:2]) for n, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {"patch_embed.projection", "patch_embed.norm", "stages.0", "norm0.weight", "norm0.bias"}
    with pytest.raises(ConfigError, match="first stride"):
        small_swin(patch_size=2)


def test_swin_recomputed_blocks_give_the_same_gradient():
    torch.manual_seed(0)
    net, x, grads = small_swin().train(), torch.randn(1, 3, 24, 24), []
    for drop in net.modules():
        if isinstance(drop, DropPath):
            drop.p = 0.0
    for flag in (False, True):
        for stage in net.stages:
            for block in stage.blocks:
                block.with_cp = flag
        net.zero_grad()
        sum(m.square().sum() for m in net(x)).backward()
        grads.append(net.patch_embed.projection.weight.grad.clone())
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("kind", [PyramidVisionTransformer, PyramidVisionTransformerV2])
def test_pvt_shapes(kind):
    net = on_meta(kind, embed_dims=8, num_layers=(1, 1, 1, 1))
    assert shapes(net) == pyramid((8, 16, 40, 64))
    keys = net.state_dict()
    assert ("layers.0.1.0.pos_embed" in keys) == (kind is PyramidVisionTransformer)
    assert ("layers.0.2.weight" in keys) == (kind is PyramidVisionTransformerV2)
    with pytest.raises(ConfigError, match="num_stages"):
        on_meta(kind, num_layers=(1, 1))


def test_pvt_initial_values():
    net = PyramidVisionTransformer(embed_dims=8, num_layers=(1, 1, 1, 1))
    net.init_weights()
    assert 0.005 < net.layers[0][1][0].pos_embed.std() < 0.03
    assert net.layers[0][0].projection.bias.abs().sum() == 0


def test_drop_path_keeps_or_drops_whole_images():
    torch.manual_seed(0)
    layer, x = DropPath(0.25), torch.ones(4000, 2, 3)
    out = layer.train()(x)
    kept = out[:, 0, 0] > 0
    torch.testing.assert_close(out, kept[:, None, None].expand_as(out) / 0.75)
    assert abs(kept.float().mean().item() - 0.75) < 0.03
    assert layer.eval()(x) is x


def test_depth_rates():
    assert depth_rates(0.2, 3) == [0.0, 0.1, 0.2]
    assert depth_rates(0.2, 1) == [0.0]


def test_patches_cover_the_map():
    assert [missing_cover(n, 4, 4) for n in (8, 9, 12)] == [0, 3, 0]
    assert pad_to_cover(torch.ones(1, 1, 3, 4), 2, 2)[0, 0, 3].tolist() == [0, 0, 0, 0]
    x = torch.randn(1, 2, 3, 5)
    assert torch.equal(to_map(to_tokens(x), (3, 5)), x)


def test_merging_orders_channels_before_positions():
    layer = PatchMerging(2, 8, norm_cfg=None)
    layer.reduction.weight.data = torch.eye(8)
    x = torch.arange(8.0).reshape(1, 2, 2, 2)  # channel, row, column
    merged, size = layer(to_tokens(x), (2, 2))
    assert size == (1, 1)
    assert merged.flatten().tolist() == list(range(8))
