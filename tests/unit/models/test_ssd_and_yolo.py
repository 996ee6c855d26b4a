"""SSD and YOLOv3: backbones, necks and heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from detector.errors import ConfigError
from detector.losses.cross_entropy import CrossEntropyLoss
from detector.losses.mse import MSELoss
from detector.models.backbones.darknet import Darknet
from detector.models.backbones.mobilenet_v2 import MobileNetV2, rounded_width
from detector.models.backbones.ssd_vgg import SSDVGG
from detector.models.dense_heads.selection import DenseTestSpec
from detector.models.dense_heads.ssd import CarlSpec, RankSpec, SSDHead, SSDTrainSpec
from detector.models.dense_heads.yolo import YOLOTestSpec, YOLOTrainSpec, YOLOV3Head
from detector.models.necks.ssd_neck import L2Norm, SSDNeck
from detector.models.necks.yolo_neck import YOLOV3Neck
from detector.structures.samples import ImageMeta, Targets
from detector.targets.assigners.grid import GridAssigner
from detector.targets.assigners.max_iou import MaxIoUAssigner
from detector.targets.coders.yolo import YOLOBBoxCoder
from detector.targets.priors.ssd_anchors import SSDAnchorGenerator
from detector.targets.priors.yolo_anchors import YOLOAnchorGenerator

META = ImageMeta((32, 32), (32, 32), (32, 32))
OBJECT = Targets(boxes=torch.tensor([[2.0, 2, 14, 14]]), labels=torch.tensor([1]))
NOTHING = Targets(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))


def ssd_head(**train: Any) -> SSDHead:
    torch.manual_seed(0)
    return SSDHead(
        num_classes=3,
        in_channels=(4, 6),
        anchor_generator=SSDAnchorGenerator(
            strides=[8, 16], ratios=[[2], [2, 3]], min_sizes=[8, 16], max_sizes=[16, 32], scale_major=False
        ),
        train_cfg=SSDTrainSpec(
            assigner=MaxIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.5, gt_max_assign_all=False), **train
        ),
        test_cfg=DenseTestSpec(score_thr=0.02),
    )


def yolo_head(**settings: Any) -> YOLOV3Head:
    torch.manual_seed(0)
    binary = {"use_sigmoid": True, "reduction": "sum"}
    return YOLOV3Head(
        num_classes=3,
        in_channels=(4, 6),
        out_channels=(4, 4),
        featmap_strides=(16, 8),
        anchor_generator=YOLOAnchorGenerator(strides=[16, 8], base_sizes=[[(16, 16)], [(8, 8)]]),
        bbox_coder=YOLOBBoxCoder(),
        loss_cls=CrossEntropyLoss(**binary),
        loss_conf=CrossEntropyLoss(**binary),
        loss_xy=CrossEntropyLoss(**binary),
        loss_wh=MSELoss(reduction="sum"),
        train_cfg=YOLOTrainSpec(assigner=GridAssigner(pos_iou_thr=0.5, neg_iou_thr=0.5)),
        **settings,
    )


def ssd_feats(batch: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(batch, 4, 4, 4), torch.randn(batch, 6, 2, 2)]


def yolo_feats(batch: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(batch, 4, 2, 2), torch.randn(batch, 6, 4, 4)]


def test_vgg_gives_the_named_features() -> None:
    with torch.device("meta"):
        maps = SSDVGG(depth=16)(torch.empty(1, 3, 300, 300))
    assert [tuple(m.shape) for m in maps] == [(1, 512, 38, 38), (1, 1024, 19, 19)]
    with pytest.raises(ConfigError, match="unknown depth"):
        SSDVGG(depth=12)


def test_darknet_strides_and_frozen_parts() -> None:
    with torch.device("meta"):
        backbone = Darknet(frozen_stages=2).train()
        maps = backbone(torch.empty(1, 3, 64, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [(256, 8, 8), (512, 4, 4), (1024, 2, 2)]
    assert not any(p.requires_grad for p in backbone.conv_res_block1.parameters())
    assert all(p.requires_grad for p in backbone.conv_res_block2.parameters())
    assert not backbone.conv_res_block5.conv.bn.training
    with pytest.raises(ConfigError, match="unknown depth"):
        Darknet(depth=19)


def test_mobilenet_strides_and_widths() -> None:
    with torch.device("meta"):
        maps = MobileNetV2(widen_factor=0.5).eval()(torch.empty(1, 3, 64, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [(16, 16, 16), (16, 8, 8), (48, 4, 4), (1280, 2, 2)]
    assert [rounded_width(w) for w in (3, 12, 18, 22.4)] == [8, 16, 24, 24]
    with pytest.raises(ConfigError, match="from 0 to 7"):
        MobileNetV2(out_indices=(8,))


def test_l2_norm_scales_positions_to_one_length() -> None:
    norm = L2Norm(2, scale=10.0)
    out = norm(torch.tensor([3.0, 4]).reshape(1, 2, 1, 1))
    assert out.flatten().tolist() == pytest.approx([6, 8])


def test_ssd_neck_adds_coarser_maps() -> None:
    neck = SSDNeck(in_channels=(4, 6), out_channels=(4, 6, 8, 8), level_strides=(2, 1), level_paddings=(1, 0))
    neck.init_weights()
    assert [tuple(m.shape[1:]) for m in neck([torch.rand(1, 4, 16, 16), torch.rand(1, 6, 8, 8)])] == [
        (4, 16, 16),
        (6, 8, 8),
        (8, 4, 4),
        (8, 2, 2),
    ]
    assert neck.l2_norm is not None
    assert neck.l2_norm.weight.tolist() == [20.0] * 4
    with pytest.raises(ConfigError, match="begin with in_channels"):
        SSDNeck(in_channels=(4,), out_channels=(5, 6), level_strides=(1,), level_paddings=(0,))


def test_yolo_neck_goes_from_coarse_to_fine() -> None:
    neck = YOLOV3Neck(num_scales=2, in_channels=(8, 4), out_channels=(4, 2)).eval()
    maps = neck([torch.rand(1, 4, 4, 4), torch.rand(1, 8, 2, 2)])
    assert [tuple(m.shape[1:]) for m in maps] == [(4, 2, 2), (2, 4, 4)]
    with pytest.raises(ConfigError, match="num_scales=3"):
        YOLOV3Neck(num_scales=3, in_channels=(8, 4), out_channels=(4, 2))


def test_ssd_takes_the_hardest_negatives_per_positive() -> None:
    head = ssd_head(neg_pos_ratio=2)
    logits = [torch.zeros(1, n * 4, s, s) for n, s in ((4, 4), (6, 2))]
    deltas = [torch.zeros(1, n * 4, s, s) for n, s in ((4, 4), (6, 2))]
    losses = head.loss((logits, deltas), [OBJECT], [META])
    # one positive anchor or more, two negatives each, all of loss log 4
    assert losses["loss_cls"].item() == pytest.approx(3 * torch.tensor(4.0).log().item(), rel=1e-5)


@pytest.mark.parametrize("train", [{}, {"isr": RankSpec(), "carl": CarlSpec()}])
def test_ssd_loss_without_objects_is_zero_and_has_gradients(train: dict[str, Any]) -> None:
    head = ssd_head(**train)
    losses = head.loss(head(ssd_feats()), [NOTHING, NOTHING], [META, META])
    assert all(value.item() == 0 for value in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in head.parameters())
    assert len(losses) == 2 + len(train) // 2


def test_ssd_detections_do_not_depend_on_the_batch() -> None:
    head = ssd_head().eval()
    both = head.predict(head(ssd_feats()), [META, META], rescale=False)
    alone = head.predict(head([m[1:] for m in ssd_feats()]), [META], rescale=False)
    torch.testing.assert_close(both[1].boxes, alone[0].boxes)
    assert len(both[1]) > 0


def test_ssd_wants_anchors_for_every_map() -> None:
    with pytest.raises(ConfigError, match="SSDHead"):
        SSDHead(in_channels=(4, 4))


def test_heads_built_for_testing_refuse_a_loss() -> None:
    ssd, yolo = ssd_head(), yolo_head()
    ssd.train_cfg = yolo.train_cfg = None
    with pytest.raises(RuntimeError, match="train_cfg"):
        ssd.loss(ssd(ssd_feats(1)), [OBJECT], [META])
    with pytest.raises(RuntimeError, match="train_cfg"):
        yolo.loss(yolo(yolo_feats(1)), [OBJECT], [META])


def test_yolo_starts_with_unlikely_objects() -> None:
    head = yolo_head()
    head.init_weights()
    bias = head.convs_pred[1].bias
    assert isinstance(bias, nn.Parameter)
    assert bias[4].sigmoid().item() == pytest.approx(8 / (608 / 8) ** 2, rel=1e-4)
    assert bias[5].sigmoid().item() == pytest.approx(0.01, rel=1e-4)


def test_yolo_loss_without_objects_is_background_only() -> None:
    head = yolo_head()
    losses = head.loss(head(yolo_feats()), [NOTHING, NOTHING], [META, META])
    assert losses["loss_conf"].item() > 0
    assert [losses[name].item() for name in ("loss_cls", "loss_xy", "loss_wh")] == [0, 0, 0]


def test_yolo_loss_of_one_object_by_hand() -> None:
    head = yolo_head(one_hot_smoother=0.3)
    raw = [torch.zeros(1, 8, 2, 2), torch.zeros(1, 8, 4, 4)]
    losses = head.loss(raw, [OBJECT], [META])
    two = torch.tensor(2.0).log().item()
    # centre (8, 8): one anchor of the coarse level, none of the fine one (IoU 64 / 144)
    assert losses["loss_cls"].item() == pytest.approx(3 * two, rel=1e-5)
    assert losses["loss_xy"].item() == pytest.approx(2 * two, rel=1e-5)
    assert losses["loss_wh"].item() == pytest.approx(2 * torch.tensor(12 / 16).log().item() ** 2, rel=1e-4)
    assert losses["loss_conf"].item() == pytest.approx(20 * two, rel=1e-5)


def test_yolo_filters_by_objectness_and_scores() -> None:
    head = yolo_head(test_cfg=YOLOTestSpec(conf_thr=0.5, score_thr=0.6))
    raw = [torch.full((1, 8, 2, 2), -9.0), torch.full((1, 8, 4, 4), -9.0)]
    raw[0][0, :4] = 0
    raw[0][0, 4:, 1, 1] = torch.tensor([2.0, 1.0, -1.0, -1.0])  # objectness, then three classes
    found = head.predict(raw, [ImageMeta((16, 16), (32, 32), (32, 32), (2.0,) * 4)], rescale=True)[0]
    assert found.labels.tolist() == [0]
    assert found.boxes.tolist() == [[8, 8, 16, 16]]
    expected = torch.tensor(2.0).sigmoid() * torch.tensor(1.0).sigmoid()
    assert found.scores.item() == pytest.approx(expected.item())


def test_yolo_wants_equally_many_levels() -> None:
    with pytest.raises(ConfigError, match="expected equal numbers"):
        yolo_head(norm_cfg=None).__class__(
            num_classes=1,
            in_channels=(4,),
            anchor_generator=YOLOAnchorGenerator(strides=[16, 8], base_sizes=[[(1, 1)], [(1, 1)]]),
            bbox_coder=YOLOBBoxCoder(),
            loss_cls=MSELoss(),
            loss_conf=MSELoss(),
            loss_xy=MSELoss(),
            loss_wh=MSELoss(),
        )
