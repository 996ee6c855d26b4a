import pytest
import torch

from detector.models.backbones.resnet import ResNet, ResNetV1d, ResNeXt
from detector.models.dense_heads.anchor_targets import flatten_levels, inside_rows
from detector.models.necks.fpn import FPN
from detector.models.roi_heads.extractors.single_level import SingleRoIExtractor, map_levels
from detector.models.roi_heads.mask_heads.mask_targets import crop_masks
from detector.structures.specs import NormSpec, RoILayerSpec


def meta_resnet(kind=ResNet, **kwargs):
    with torch.device("meta"):
        return kind(**kwargs)


@pytest.mark.parametrize(
    ("depth", "channels"),
    [(18, (64, 128, 256, 512)), (34, (64, 128, 256, 512)), (50, (256, 512, 1024, 2048))],
)
def test_resnet_shapes(depth, channels):
    maps = meta_resnet(depth=depth)(torch.zeros(1, 3, 64, 96, device="meta"))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, 64 // s, 96 // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)
    ]


def test_style_decides_which_convolution_strides():
    strides = {
        style: tuple(
            getattr(meta_resnet(depth=50, style=style).layer2[0], f"conv{i}").stride[0] for i in (1, 2)
        )
        for style in ("pytorch", "caffe")
    }
    assert strides == {"pytorch": (1, 2), "caffe": (2, 1)}


def test_deep_stem_keys():
    keys = meta_resnet(ResNetV1d, depth=50).state_dict()
    assert tuple(keys["stem.6.weight"].shape) == (64, 32, 3, 3)
    assert "layer1.0.downsample.1.weight" in keys
    assert "conv1.weight" not in keys


def test_resnext_width():
    net = meta_resnet(ResNeXt, depth=50, groups=32, base_width=4)
    assert tuple(net.layer1[0].conv2.weight.shape) == (128, 4, 3, 3)


def test_dilated_stage_keeps_its_size():
    net = meta_resnet(depth=50, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))
    assert net(torch.zeros(1, 3, 64, 64, device="meta"))[3].shape[-1] == 4


def test_frozen_stages_and_norms_stay_frozen_in_training():
    net = ResNet(depth=18, frozen_stages=1).train()
    assert not net.bn1.training
    assert not net.layer2[0].bn1.training
    frozen = {name.split(".")[0] for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}
    assert ResNet(depth=18, norm_eval=False).train().layer2[0].bn1.training


def test_zero_init_residual():
    net = ResNet(depth=18, norm_cfg=NormSpec(type="GN", num_groups=32), num_stages=1, out_indices=(0,))
    net.init_weights()
    assert net.layer1[0].gn2.weight.abs().sum() == 0
    assert net.layer1[0].gn1.weight.unique().tolist() == [1.0]


def test_recomputed_blocks_give_the_same_gradient():
    torch.manual_seed(0)
    net = ResNet(depth=18, num_stages=1, out_indices=(0,), norm_eval=True).train()
    x = torch.randn(1, 3, 32, 32)
    grads = []
    for flag in (False, True):
        for block in net.layer1:
            block.with_cp = flag
        net.zero_grad()
        net(x)[0].square().sum().backward()
        grads.append(net.conv1.weight.grad.clone())
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize(
    ("extra", "convs", "first_width"),
    [(False, 3, None), ("on_input", 5, 32), ("on_output", 5, 16), (True, 5, 32)],
)
def test_fpn_levels(extra, convs, first_width):
    neck = FPN(in_channels=[8, 16, 32], out_channels=16, num_outs=5, add_extra_convs=extra)
    outs = neck([torch.randn(1, c, s, s) for c, s in ((8, 16), (16, 8), (32, 4))])
    assert [o.shape[-1] for o in outs] == [16, 8, 4, 2, 1]
    assert len(neck.fpn_convs) == convs
    assert first_width is None or neck.fpn_convs[3].conv.in_channels == first_width


def test_flatten_follows_the_order_of_anchors():
    # (1, A * c, h, w) with value = 100 * channel + cell
    maps = torch.arange(4).reshape(1, 4, 1, 1) * 100 + torch.arange(6).reshape(1, 1, 2, 3)
    flat = flatten_levels([maps], 2)[0]
    assert flat[:3].tolist() == [[0, 100], [200, 300], [1, 101]]


def test_inside_rows_by_hand():
    anchors = torch.tensor([[0.0, 0, 10, 10], [-1, 0, 9, 9], [0, 0, 9, 21]])
    valid = torch.tensor([True, True, True])
    assert inside_rows(anchors, valid, (20, 20), -1) is None
    assert inside_rows(anchors, valid, (20, 20), 0).tolist() == [0]
    assert inside_rows(anchors, ~valid, (20, 20), -1).tolist() == []


def test_regions_go_to_the_level_of_their_size():
    sides = torch.tensor([10.0, 111, 112, 223, 224, 448, 5000])
    rois = torch.stack((sides * 0, sides * 0, sides * 0, sides, sides), dim=1)
    assert map_levels(rois, num_levels=4, finest_scale=56).tolist() == [0, 0, 1, 1, 2, 3, 3]


def test_extractor_keeps_the_order_and_every_level_in_the_graph():
    feats = [torch.full((2, 1, 64 // s, 64 // s), float(s), requires_grad=True) for s in (1, 2, 4, 8)]
    extractor = SingleRoIExtractor(
        roi_layer=RoILayerSpec(), out_channels=1, featmap_strides=(1, 2, 4, 8), finest_scale=8
    )
    rois = torch.tensor([[0.0, 4, 4, 60, 60], [1, 8, 8, 16, 16], [0, 8, 8, 30, 30]])
    pooled = extractor(feats, rois)
    assert pooled[:, 0, 3, 3].tolist() == [4.0, 1.0, 2.0]
    pooled.sum().backward()
    assert all(f.grad is not None for f in feats)
    assert extractor(feats, rois[:0]).shape == (0, 1, 7, 7)


def test_crop_masks_by_hand():
    masks = torch.zeros(2, 20, 20, dtype=torch.uint8)
    masks[1, :, 10:] = 1
    got = crop_masks(masks, torch.tensor([[0.0, 0, 20, 20], [0, 0, 20, 20]]), torch.tensor([1, 0]), 4)
    assert got[0].tolist() == [[0, 0, 1, 1]] * 4
    assert got[1].sum() == 0
    assert crop_masks(masks, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 28).shape == (0, 28, 28)
