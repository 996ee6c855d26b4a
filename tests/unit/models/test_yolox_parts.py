"""The backbone, the neck and the detector of YOLOX, and the necks of YOLOF and NAS-FCOS."""

import pytest
import torch
from torch import nn

from detector.engine.step import announce
from detector.errors import ConfigError
from detector.models.backbones.csp_darknet import CSPDarknet, Focus
from detector.models.detectors.yolox import YOLOX
from detector.models.necks.dilated_encoder import DilatedEncoder
from detector.models.necks.nas_fcos_fpn import NASFCOS_FPN, fit
from detector.models.necks.yolox_pafpn import YOLOXPAFPN
from detector.structures.samples import Batch, ImageMeta, Targets


def detector(**kwargs):
    return YOLOX(backbone=nn.Identity(), bbox_head=nn.Identity(), **kwargs)


@pytest.mark.parametrize(
    ("arch", "indices", "channels"), [("P5", (2, 3, 4), (64, 128, 256)), ("P6", (5,), (256,))]
)
@pytest.mark.parametrize("depthwise", [False, True])
def test_backbone_shapes(arch, indices, channels, depthwise):
    with torch.device("meta"):
        net = CSPDarknet(
            arch=arch, widen_factor=0.25, deepen_factor=0.33, out_indices=indices, use_depthwise=depthwise
        )
    maps = net(torch.zeros(1, 3, 64, 128, device="meta"))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, 64 >> i + 1, 128 >> i + 1) for c, i in zip(channels, indices, strict=True)
    ]


def test_frozen_stages_stay_frozen():
    net = CSPDarknet(widen_factor=0.125, deepen_factor=0.1, frozen_stages=1, norm_eval=True).train()
    frozen = {name.split(".")[0] for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "stage1"}
    assert not any(m.training for m in net.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("change", [{"arch": "P7"}, {"out_indices": (7,)}, {"frozen_stages": 9}])
def test_backbone_refuses_what_does_not_exist(change):
    with pytest.raises(ConfigError, match="CSPDarknet"), torch.device("meta"):
        CSPDarknet(**change)


def test_focus_puts_the_left_column_first():
    focus = Focus(1, 4, 1, norm_cfg=None, act_cfg=None)
    with torch.no_grad():
        focus.conv.conv.weight.copy_(torch.eye(4).reshape(4, 4, 1, 1))
        focus.conv.conv.bias.zero_()
    image = torch.tensor([[1.0, 2], [3, 4]]).reshape(1, 1, 2, 2)
    assert focus(image).flatten().tolist() == [1, 3, 2, 4]


def test_neck_shapes():
    with torch.device("meta"):
        neck = YOLOXPAFPN(in_channels=[8, 16, 32], out_channels=12, num_csp_blocks=1)
    maps = [torch.zeros(1, c, s, s, device="meta") for c, s in ((8, 16), (16, 8), (32, 4))]
    assert [tuple(m.shape) for m in neck(maps)] == [(1, 12, 16, 16), (1, 12, 8, 8), (1, 12, 4, 4)]


def test_dilated_encoder_takes_the_last_map():
    neck = DilatedEncoder(
        in_channels=6, out_channels=8, block_mid_channels=2, num_residual_blocks=2, block_dilations=[2, 4]
    )
    neck.init_weights()
    (found,) = neck([torch.zeros(1, 3, 8, 8), torch.zeros(1, 6, 4, 5)])
    assert found.shape == (1, 8, 4, 5)


def test_nas_fcos_neck_shapes_and_its_least_levels():
    neck = NASFCOS_FPN(in_channels=[2, 4, 4, 4], out_channels=4, num_outs=5)
    neck.init_weights()
    maps = [torch.zeros(1, c, s, s) for c, s in ((2, 64), (4, 32), (4, 16), (4, 8))]
    assert [m.shape[-1] for m in neck.eval()(maps)] == [32, 16, 8, 4, 2]
    with pytest.raises(ConfigError, match="at least 3"):
        NASFCOS_FPN(in_channels=[2, 4, 4, 4], out_channels=4, num_outs=5, start_level=2)


def test_fit_grows_by_nearest_and_shrinks_by_maxima_over_padding():
    x = torch.tensor([[-1.0, -2, -3]]).reshape(1, 1, 1, 3)
    assert fit(x, (1, 3)) is x
    assert fit(x, (2, 6))[0, 0, 0].tolist() == [-1, -1, -2, -2, -3, -3]
    assert fit(x, (1, 2)).flatten().tolist() == [-1, 0]  # the padded column holds a zero


def test_sizes_change_with_the_interval_and_depend_on_the_iteration_alone():
    model = detector(random_size_range=(10, 20), random_size_interval=4)
    sizes = [model.training_size(i) for i in range(40)]
    assert sizes[:4] == [(640, 640)] * 4
    assert all(len(set(sizes[i : i + 4])) == 1 for i in range(0, 40, 4))
    assert len(set(sizes)) > 3
    assert all(h % 32 == 0 and 320 <= h <= 640 and h == w for h, w in sizes)
    assert sizes == [
        detector(random_size_range=(10, 20), random_size_interval=4).training_size(i) for i in range(40)
    ]


def test_images_and_boxes_are_scaled_together():
    model = detector(input_size=(64, 64))
    targets = [Targets(torch.tensor([[8.0, 16, 32, 64]]), torch.tensor([0]))]
    batch = Batch(torch.rand(1, 3, 64, 64), [ImageMeta((64, 64), (64, 64), (64, 64))], targets)
    assert model.resize(batch, (64, 64)) is batch
    found = model.resize(batch, (32, 96))
    assert found.images.shape == (1, 3, 32, 96)
    assert found.targets[0].boxes.tolist() == [[12, 8, 48, 32]]
    assert targets[0].boxes.tolist() == [[8, 16, 32, 64]]


def test_the_engine_tells_the_detector_where_it_is():
    model = detector()
    announce(nn.Sequential(model), 3, 77)
    assert model.iteration == 77
