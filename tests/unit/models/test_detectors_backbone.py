import pytest
import torch

from detector.config.mmdet_v2 import normalise_model, unroll_rfp
from detector.engine.initial_weights import requested
from detector.errors import ConfigError
from detector.layers.context_block import ContextBlockPlugin
from detector.layers.deform_conv import DeformConv2dPack
from detector.layers.plugins import PluginSpec
from detector.models.backbones.detectors_resnet import DetectoRSResNet
from detector.models.backbones.resnet import ResNet, ResNeXt
from detector.models.necks.rfp import ASPP, RFP
from detector.structures.specs import ConvSpec

DCN = ConvSpec(type="DCN")
C3_C5 = (False, True, True, True)
SMALL = {"depth": 50, "num_stages": 2, "strides": (1, 2), "dilations": (1, 1), "out_indices": (0, 1)}


def on_meta(kind, **kwargs):
    with torch.device("meta"):
        return kind(**kwargs)


def test_deformable_stages():
    net = on_meta(ResNeXt, depth=50, groups=32, base_width=4, dcn=DCN, stage_with_dcn=C3_C5)
    kinds = [isinstance(stage[-1].conv2, DeformConv2dPack) for stage in (net.layer1, net.layer2, net.layer4)]
    assert kinds == [False, True, True]
    assert net.layer2[0].conv2.stride == (2, 2)
    assert net.layer2[0].conv2.groups == 32
    assert net.state_dict()._metadata["layer2.0.conv2"]["version"] == 2


def test_dcn_needs_bottlenecks_and_plain_convolutions():
    with pytest.raises(ConfigError, match="depth 50"):
        on_meta(ResNet, depth=18, dcn=DCN, stage_with_dcn=C3_C5)
    with pytest.raises(ConfigError, match="remove one"):
        on_meta(ResNet, depth=50, dcn=DCN, stage_with_dcn=C3_C5, conv_cfg=ConvSpec(type="ConvWS"))


def test_plugins_have_the_width_of_their_place():
    plugins = [
        PluginSpec(
            cfg=ContextBlockPlugin(ratio=0.25, postfix=i), position=f"after_conv{i}", stages=(False, True)
        )
        for i in (1, 2, 3)
    ]
    net = on_meta(ResNeXt, groups=32, base_width=4, plugins=plugins, **SMALL)
    keys = net.state_dict()
    widths = [keys[f"layer2.0.context_block{i}.conv_mask.weight"].shape[1] for i in (1, 2, 3)]
    assert widths == [256, 256, 512]
    assert not any("context_block" in key for key in keys if key.startswith("layer1"))


def test_initial_values_of_offsets_and_plugins():
    plugins = [PluginSpec(cfg=ContextBlockPlugin(ratio=0.25), position="after_conv3")]
    net = ResNet(
        depth=50, num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,), base_channels=8,
        dcn=DCN, stage_with_dcn=(True,), plugins=plugins,
    )  # fmt: skip
    net.init_weights()
    block = net.layer1[0]
    assert block.conv2.conv_offset.weight.abs().sum() == 0
    assert block.context_block.channel_add_conv[-1].weight.abs().sum() == 0
    assert block.context_block.channel_add_conv[0].weight.abs().sum() > 0


def test_detectors_keys_and_image():
    net = on_meta(
        DetectoRSResNet,
        conv_cfg=ConvSpec(type="ConvAWS"),
        sac=ConvSpec(type="SAC", use_deform=True),
        stage_with_sac=(False, True),
        rfp_inplanes=16,
        output_img=True,
        **SMALL,
    )
    keys = net.state_dict()
    assert "layer1.0.conv2.weight_gamma" in keys
    assert "layer2.0.conv2.offset_l.weight" in keys
    assert [key for key in keys if "rfp_conv.weight" in key] == ["layer2.0.rfp_conv.weight"]
    image = torch.zeros(1, 3, 64, 64, device="meta")
    maps = net(image)
    assert maps[0] is image
    assert [tuple(m.shape[1:]) for m in maps[1:]] == [(256, 16, 16), (512, 8, 8)]


def test_a_fresh_entrance_for_features_changes_nothing():
    net = DetectoRSResNet(rfp_inplanes=4, base_channels=4, stem_channels=8, **SMALL).eval()
    net.init_weights()
    image = torch.randn(1, 3, 32, 32)
    feats = [torch.randn(1, 4, 8, 8), torch.randn(1, 4, 4, 4)]
    for a, b in zip(net(image), net.rfp_forward(image, feats), strict=True):
        torch.testing.assert_close(a, b)


def _pyramid(steps=2, modules=1):
    backbones = [
        DetectoRSResNet(rfp_inplanes=8, base_channels=4, stem_channels=8, **SMALL) for _ in range(modules)
    ]
    return RFP(
        in_channels=[16, 32], out_channels=8, num_outs=3, rfp_steps=steps, rfp_modules=backbones,
        aspp_out_channels=2,
    )  # fmt: skip


def test_a_fresh_pyramid_takes_the_mean_of_both_rounds():
    torch.manual_seed(0)
    neck = _pyramid().eval()
    neck.init_weights()
    image, maps = torch.randn(1, 3, 32, 32), [torch.randn(1, 16, 8, 8), torch.randn(1, 32, 4, 4)]
    once = super(RFP, neck).forward(maps)
    again = super(RFP, neck).forward(neck.rfp_modules[0](image))
    for found, a, b in zip(neck([image, *maps]), once, again, strict=True):
        torch.testing.assert_close(found, (a + b) / 2)


def test_rounds_and_backbones_go_together():
    with pytest.raises(ConfigError, match="2 further backbones"):
        _pyramid(steps=3, modules=1)


def test_aspp_by_hand():
    aspp = ASPP(1, 1, (1, 3, 1))
    with torch.no_grad():
        for conv in aspp.aspp:
            conv.weight.fill_(1.0)
            conv.bias.zero_()
    x = torch.tensor([[[[1.0, -3.0], [5.0, 1.0]]]])
    found = aspp(x)[0]
    assert found[0].flatten().tolist() == [1, 0, 5, 1]
    assert found[2].unique().tolist() == [1.0]  # the mean
    with pytest.raises(ConfigError, match="must be 1"):
        ASPP(1, 1, (1, 3))


def test_the_backbone_of_a_config_is_repeated_and_its_weights_asked_for():
    backbone = {"type": "DetectoRS_ResNet", "depth": 50, "pretrained": "torchvision://resnet50"}
    model = {"type": "CascadeRCNN", "neck": {"type": "RFP", "rfp_steps": 3, "rfp_backbone": backbone}}
    steps = unroll_rfp(model)["neck"]["rfp_modules"]
    wanted = {"type": "Pretrained", "checkpoint": "torchvision://resnet50"}
    assert [step["init_cfg"] for step in steps] == [wanted, wanted]
    assert "rfp_backbone" in model["neck"]
    assert [request.module for request in requested(model)] == ["neck.rfp_modules.0", "neck.rfp_modules.1"]


def test_the_old_name_of_deform_groups():
    dcn = {"type": "DCNv2", "deformable_groups": 4}
    found = normalise_model({"type": "FasterRCNN", "backbone": {"type": "ResNet", "dcn": dcn}})
    assert found["backbone"]["dcn"] == {"type": "DCNv2", "deform_groups": 4}
