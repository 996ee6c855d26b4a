"""RoI heads beyond the standard one: built small, trained on a step with and without objects, tested."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from detector.build import Builder
from detector.errors import ConfigError
from detector.models.necks.bfp import BFP
from detector.models.roi_heads.dynamic import DynamicRoIHead
from detector.models.roi_heads.grid import jitter
from detector.models.roi_heads.mask_heads.grid import GridHead, neighbours
from detector.models.roi_heads.mask_heads.mask_point import uncertain_pixels, uncertain_points
from detector.models.roi_heads.mask_heads.maskiou import iou_targets, share_inside
from detector.ops.point_sample import point_sample
from detector.ops.roi_align import boxes_to_rois
from detector.structures.samples import ImageMeta, Targets

SEQUENCE = {"type": "CrossEntropyLoss", "use_mask": True}
ROI = {
    "type": "SingleRoIExtractor",
    "roi_layer": {"type": "RoIAlign", "output_size": 7},
    "out_channels": 8,
    "featmap_strides": [4, 8],
}
MASK_ROI = {**ROI, "roi_layer": {"type": "RoIAlign", "output_size": 14}}
BOX = {
    "type": "Shared2FCBBoxHead",
    "num_classes": 3,
    "in_channels": 8,
    "fc_out_channels": 16,
    "roi_feat_size": 7,
}
MASK = {"type": "FCNMaskHead", "num_classes": 3, "in_channels": 8, "conv_out_channels": 8, "num_convs": 1}
TRAIN = {
    "assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0.5},
    "sampler": {"type": "RandomSampler", "num": 16, "pos_fraction": 0.5},
    "mask_size": 28,
}
GRID = {
    "type": "GridHead",
    "in_channels": 8,
    "num_convs": 1,
    "grid_points": 4,
    "point_feat_channels": 4,
    "norm_cfg": {"type": "GN", "num_groups": 4},
}
DYNAMIC = {"iou_topk": 3, "beta_topk": 2, "update_iter_interval": 2, "initial_iou": 0.4, "initial_beta": 1.0}
DOUBLE = {
    "type": "DoubleConvFCBBoxHead",
    "num_convs": 1,
    "num_fcs": 1,
    "num_classes": 3,
    "in_channels": 8,
    "conv_out_channels": 16,
    "fc_out_channels": 16,
}
MASKED = {"mask_roi_extractor": MASK_ROI, "mask_head": {**MASK, "loss_mask": SEQUENCE}}
POINT_ROI = {
    "type": "GenericRoIExtractor",
    "aggregation": "concat",
    "roi_layer": {"type": "SimpleRoIAlign", "output_size": 14},
    "out_channels": 8,
    "featmap_strides": [4],
}
COARSE = {
    "type": "CoarseMaskHead",
    "num_classes": 3,
    "in_channels": 8,
    "conv_out_channels": 8,
    "fc_out_channels": 16,
    "loss_mask": SEQUENCE,
}
POINT = {"type": "MaskPointHead", "num_classes": 3, "in_channels": 8, "fc_channels": 8}
IOU = {
    "type": "MaskIoUHead",
    "num_convs": 2,
    "in_channels": 8,
    "conv_out_channels": 8,
    "fc_out_channels": 16,
    "num_classes": 3,
}
HLR = {"type": "ScoreHLRSampler", "num": 16, "pos_fraction": 0.5}
OHEM = {"type": "OHEMSampler", "num": 16, "pos_fraction": 0.5}
HEADS: dict[str, tuple[dict[str, Any], dict[str, Any], set[str]]] = {
    "GridRoIHead": (
        {"bbox_head": {**BOX, "with_reg": False}, "grid_roi_extractor": MASK_ROI, "grid_head": GRID},
        {"pos_radius": 1, "max_num_grid": 4},
        {"loss_cls", "acc", "loss_grid"},
    ),
    "DynamicRoIHead": ({}, {"dynamic_rcnn": DYNAMIC}, {"loss_cls", "acc", "loss_bbox"}),
    "DoubleHeadRoIHead": (
        {"bbox_head": DOUBLE, "reg_roi_scale_factor": 1.3},
        {},
        {"loss_cls", "acc", "loss_bbox"},
    ),
    "MaskScoringRoIHead": (
        {**MASKED, "mask_iou_head": IOU},
        {"mask_thr_binary": 0.5},
        {"loss_cls", "acc", "loss_bbox", "loss_mask", "loss_mask_iou"},
    ),
    "PointRendRoIHead": (
        {"mask_roi_extractor": POINT_ROI, "mask_head": COARSE, "point_head": POINT},
        {"mask_size": 7, "num_points": 16, "oversample_ratio": 3, "importance_sample_ratio": 0.75},
        {"loss_cls", "acc", "loss_bbox", "loss_mask", "loss_point"},
    ),
    "PISARoIHead": (
        MASKED,
        {"sampler": HLR, "isr": {"k": 2, "bias": 0}, "carl": {"k": 1, "bias": 0.2}},
        {"loss_cls", "acc", "loss_bbox", "loss_mask", "loss_carl"},
    ),
    "StandardRoIHead": ({}, {"sampler": OHEM}, {"loss_cls", "acc", "loss_bbox"}),
}


def config(name: str) -> dict[str, Any]:
    own, train, _ = HEADS[name]
    test = {"score_thr": 0.0, "max_per_img": 5}
    if name == "PointRendRoIHead":
        test |= {"subdivision_steps": 3, "subdivision_num_points": 16, "scale_factor": 2}
    node = {"type": name, "bbox_roi_extractor": ROI, "bbox_head": BOX, **own}
    return copy.deepcopy({**node, "train_cfg": {**TRAIN, **train}, "test_cfg": test})


def build(name: str) -> Any:
    torch.manual_seed(0)
    head = Builder().build(config(name), "roi_head")
    head.init_weights()
    return head


def scene(count: int = 2) -> tuple[Any, ...]:
    """Maps, proposals, targets and metas of two images, the second without objects."""
    torch.manual_seed(1)
    feats = [torch.randn(2, 8, 16, 16), torch.randn(2, 8, 8, 8)]
    boxes = torch.tensor([[4.0, 4, 40, 36], [20, 10, 60, 50]])[:count]
    masks = torch.zeros(count, 64, 64, dtype=torch.uint8)
    masks[:, 10:30, 10:30] = 1
    targets = [
        Targets(boxes, torch.arange(count), masks=masks),
        Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), masks=masks[:0]),
    ]
    around = torch.cat([boxes + d for d in (0.0, 2.0, 3.0, 20.0)])
    proposals = [torch.cat((around, torch.ones(len(around), 1)), 1), torch.rand(6, 5) * 20]
    proposals[1][:, 2:4] += 25
    return feats, proposals, targets, [ImageMeta((32, 32), (64, 64), (64, 64), (2.0,) * 4)] * 2


@pytest.mark.parametrize("name", HEADS)
def test_losses_are_named_finite_and_reach_every_weight(name: str) -> None:
    head = build(name).train()
    losses = head.loss(*scene())
    assert set(losses) == HEADS[name][2]
    total = sum(value for key, value in losses.items() if "loss" in key)
    total.backward()
    assert torch.isfinite(total)
    unused = [n for n, p in head.named_parameters() if p.grad is None]
    assert unused == []


@pytest.mark.parametrize("name", HEADS)
def test_a_batch_without_objects_gives_finite_losses(name: str) -> None:
    head = build(name).train()
    losses = head.loss(*scene(0))
    sum(value for key, value in losses.items() if "loss" in key).backward()
    assert set(losses) == HEADS[name][2]
    assert all(torch.isfinite(value) for value in losses.values())


@pytest.mark.parametrize("name", HEADS)
def test_an_image_is_predicted_alike_alone_and_in_a_batch(name: str) -> None:
    head = build(name).eval()
    feats, proposals, _, metas = scene()
    both = head.predict(feats, proposals, metas, rescale=True)
    alone = head.predict([f[1:] for f in feats], proposals[1:], metas[1:], rescale=True)[0]
    assert len(alone) == 5
    torch.testing.assert_close(both[1].boxes, alone.boxes, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[1].scores, alone.scores)
    assert (both[1].masks is None) == (alone.masks is None)
    assert (alone.mask_scores is not None) == (name == "MaskScoringRoIHead")
    nothing = head.predict(feats, [p[:0] for p in proposals], metas, rescale=True)
    assert [len(found) for found in nothing] == [0, 0]


@pytest.mark.parametrize("name", HEADS)
def test_heads_build_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        head = Builder().build(config(name), "roi_head")
    assert all(p.is_meta for p in head.parameters())


def test_dynamic_head_moves_threshold_and_beta_after_the_interval() -> None:
    node = config("DynamicRoIHead")
    node["train_cfg"]["sampler"]["num"] = 64
    node["train_cfg"]["dynamic_rcnn"] |= {"beta_topk": 3, "initial_iou": 0.6}
    head: DynamicRoIHead = Builder().build(node, "roi_head").train()
    assert head.train_cfg is not None
    assigner: Any = head.train_cfg.assigner
    loss: Any = head.bbox_head.loss_bbox
    head.loss(*scene())
    assert (assigner.pos_iou_thr, loss.beta) == (0.5, 1.0)
    # the third largest overlap is 1 in the first image, 0 in the second
    assert head.iou_history == [0.5]
    head.loss(*scene())
    assert (assigner.pos_iou_thr, assigner.min_pos_iou, assigner.neg_range) == (0.6, 0.6, (0.0, 0.6))
    # four boxes that fit, then one moved by a half of a tenth of its size, then 2 / 36 and 2 / 32 in tenths
    assert loss.beta == pytest.approx((2 / 3.6 + 2 / 3.2) / 2)
    assert head.iou_history == head.beta_history == []


def test_dynamic_head_needs_smooth_l1() -> None:
    node = config("DynamicRoIHead")
    node["bbox_head"]["loss_bbox"] = {"type": "L1Loss"}
    with pytest.raises(ConfigError, match="expected SmoothL1Loss"):
        Builder().build(node, "roi_head")


def test_neighbours_of_a_grid_stored_column_by_column() -> None:
    assert neighbours(2) == [[1, 2], [0, 3], [0, 3], [1, 2]]


def test_grid_targets_decode_to_the_ground_truth() -> None:
    head = GridHead(in_channels=8, num_convs=1, point_feat_channels=4, norm_cfg=None)  # type: ignore[arg-type]
    boxes = torch.tensor([[10.0, 10, 38, 38], [0, 0, 1, 1]])
    gt = torch.tensor([[8.0, 12, 36, 40], [0, 0, 1, 1]])
    wanted = head.targets(boxes, gt, 0)
    assert wanted.shape == (2, 9, 28, 28)
    assert wanted[0].flatten(1).sum(dim=1).tolist() == [1] * 9
    assert wanted[1].sum() == 0  # twice its side is not longer than the grid
    found = head.decode(boxes[:1], (wanted[:1] * 2 - 1) * 20)
    # pixels of one input pixel: positions are cut to whole ones, and decoding divides by half the map
    steps = (gt[0] - torch.tensor([-4.0, -4, -4, -4])).int() + 0.5
    torch.testing.assert_close(found[0], steps / 28 * 28 - 4)
    with pytest.raises(ConfigError, match="square number"):
        GridHead(grid_points=8)


def test_jitter_stays_inside_the_image_and_follows_the_seed() -> None:
    boxes = torch.tensor([[0.0, 0, 30, 20], [50, 50, 63, 63]])
    torch.manual_seed(3)
    first = jitter(boxes, (48, 64))
    torch.manual_seed(3)
    assert torch.equal(first, jitter(boxes, (48, 64)))
    assert (first[:, 0::2].max() <= 63) & (first[:, 1::2].max() <= 47) & (first.min() >= 0)
    assert jitter(boxes[:0], (48, 64)).shape == (0, 4)


def test_mask_iou_targets_count_what_lies_outside_the_box() -> None:
    masks = torch.zeros(2, 8, 8)
    masks[0, 2:6, 2:6] = 1
    boxes = torch.tensor([[2.0, 2, 4, 6], [0, 0, 8, 8], [7.9, 7.9, 9, 9]])
    shares = share_inside(masks, boxes, torch.tensor([0, 0, 1]))
    torch.testing.assert_close(shares, torch.tensor([0.5, 1.0, 0.0]), rtol=0, atol=1e-6)
    wanted = torch.ones(1, 4, 4)
    predicted = torch.zeros(1, 4, 4)
    predicted[0, :2] = 1
    # 8 of 16 cells found; the object is twice as large as its part in the box: 8 / (8 + 32 - 8)
    torch.testing.assert_close(iou_targets(predicted, wanted, shares[:1]), torch.tensor([0.25]))


def test_uncertain_points_lie_where_logits_are_small() -> None:
    logits = torch.full((1, 2, 4, 4), 5.0)
    logits[0, 1, 1, 2] = 0.1
    rows, points = uncertain_pixels(logits, torch.tensor([1]), 1)
    assert rows.tolist() == [[6]]
    assert points.tolist() == [[[0.625, 0.375]]]
    torch.manual_seed(0)
    drawn = uncertain_points(
        logits, torch.tensor([1]), num_points=8, oversample_ratio=8, importance_sample_ratio=0.5
    )
    assert drawn.shape == (1, 8, 2)
    doubt = point_sample(logits, drawn)[0, 1]
    assert doubt[:4].max() < doubt[4:].mean()


def test_generic_extractor_adds_levels_treats_each_and_the_sum() -> None:
    node = {
        "type": "GenericRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 2},
        "out_channels": 12,
        "featmap_strides": [4, 8],
        "pre_cfg": {
            "type": "ConvModule", "in_channels": 12, "out_channels": 12, "kernel_size": 3, "padding": 1,
        },
        "post_cfg": {
            "type": "GeneralizedAttention", "in_channels": 12, "num_heads": 3, "attention_type": "0100",
        },
    }  # fmt: skip
    extractor = Builder().build(node, "extractor")
    keys = {key.split(".")[0] for key in extractor.state_dict()}
    assert keys == {"pre_module", "post_module"}
    feats = [torch.randn(1, 12, 8, 8), torch.randn(1, 12, 4, 4)]
    rois = boxes_to_rois([torch.tensor([[0.0, 0, 20, 20]])])
    plain = Builder().build({**node, "pre_cfg": None, "post_cfg": None}, "extractor")
    single = [
        Builder().build({**node, "featmap_strides": [s]}, "extractor")([f], rois)
        for s, f in zip((4, 8), feats, strict=True)
    ]
    torch.testing.assert_close(plain(feats, rois), single[0] + single[1])
    assert extractor(feats, rois[:0]).shape == (0, 12, 7, 7)
    both = Builder().build({**node, "pre_cfg": None, "post_cfg": None, "aggregation": "concat"}, "extractor")
    torch.testing.assert_close(both(feats, rois), torch.cat(single, dim=1))
    with pytest.raises(ConfigError, match="aggregation"):
        Builder().build({**node, "aggregation": "mean"}, "extractor")


@pytest.mark.parametrize("kind", [None, "conv", "non_local"])
def test_balanced_pyramid_adds_the_mean_of_all_levels(kind: str | None) -> None:
    neck = BFP(in_channels=8, num_levels=3, refine_level=1, refine_type=kind)
    neck.init_weights()
    feats = [torch.full((1, 8, s, s), float(i)) for i, s in enumerate((8, 4, 2))]
    found = neck(feats)
    assert [f.shape for f in found] == [f.shape for f in feats]
    if kind is None:
        assert [f.unique().item() for f in found] == [1.0, 2.0, 3.0]
    with pytest.raises(ConfigError, match="num_levels=3"):
        neck(feats[:2])
    with pytest.raises(ConfigError, match="refine_type"):
        BFP(in_channels=8, num_levels=3, refine_type="pool")
