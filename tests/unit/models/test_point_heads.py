"""Heads on points and their kin: empty images, batches, both modes, initial values."""

import pytest
import torch

from detector.build import Builder
from detector.errors import ConfigError
from detector.layers.task_decomposition import geometric_mean, shifted_sides
from detector.models.dense_heads.autoassign import CenterPrior, negative_loss
from detector.models.dense_heads.fcos import FCOSHead, centerness_of
from detector.models.dense_heads.vfnet import star_offsets
from detector.structures.samples import ImageMeta, Targets

STRIDES = [8, 16, 32, 64, 128]
IOU = {"type": "IoULoss"}
FOCAL = {"type": "FocalLoss"}
ATSS = {"type": "ATSSAssigner", "topk": 9}
MAX_IOU = {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0}
ANCHORS = {"type": "AnchorGenerator", "ratios": [1.0], "octave_base_scale": 8, "scales_per_octave": 1}
SMALL = {"num_classes": 3, "in_channels": 4, "feat_channels": 4, "stacked_convs": 1}
TEST = {"nms_pre": 50, "score_thr": 0.0, "nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 10}
REPPOINTS = {"type": "RepPointsHead", **SMALL, "point_feat_channels": 4, "point_strides": STRIDES}
POINTS = {"init": {"assigner": {"type": "PointAssigner"}}, "refine": {"assigner": MAX_IOU}}
BOXES = {"init": {"assigner": MAX_IOU}, "refine": {"assigner": MAX_IOU}}
TOOD = {
    "type": "TOODHead",
    **SMALL,
    "feat_channels": 64,
    "stacked_convs": 2,
    "anchor_generator": {**ANCHORS, "strides": STRIDES},
    "loss_cls": {"type": "QualityFocalLoss", "activated": True},
    "loss_bbox": {"type": "GIoULoss"},
}
ALIGNED = {"assigner": {"type": "TaskAlignedAssigner", "topk": 13}, "initial_assigner": ATSS}
HEADS = {
    "fcos": {"type": "FCOSHead", **SMALL, "strides": STRIDES, "norm_cfg": None},
    "fcos_tricks": {
        **{"type": "FCOSHead", **SMALL, "strides": STRIDES, "norm_cfg": None, "center_sampling": True},
        **{"norm_on_bbox": True, "centerness_on_reg": True, "dcn_on_last_conv": True, "conv_bias": True},
    },
    "fovea": {"type": "FoveaHead", **SMALL, "strides": STRIDES, "loss_bbox": {"type": "SmoothL1Loss"}},
    "fovea_align": {
        **{"type": "FoveaHead", **SMALL, "strides": STRIDES, "loss_bbox": {"type": "SmoothL1Loss"}},
        **{"with_deform": True},
    },
    "fsaf": {
        **{"type": "FSAFHead", **SMALL, "reg_decoded_bbox": True, "bbox_coder": {"type": "TBLRBBoxCoder"}},
        "anchor_generator": {**ANCHORS, "octave_base_scale": 1, "strides": STRIDES},
        "loss_cls": {**FOCAL, "reduction": "none"},
        "loss_bbox": {**IOU, "reduction": "none"},
        "train_cfg": {"assigner": {"type": "CenterRegionAssigner", "pos_scale": 0.2, "neg_scale": 0.2}},
    },
    "vfnet": {
        **{"type": "VFNetHead", **SMALL, "strides": STRIDES, "norm_cfg": None},
        "train_cfg": {"assigner": ATSS},
    },
    "vfnet_ranges": {
        **{"type": "VFNetHead", **SMALL, "strides": STRIDES, "norm_cfg": None, "use_atss": False},
        "use_vfl": False,
    },
    "tood_first": {**TOOD, "norm_cfg": None, "train_cfg": ALIGNED},
    "tood_aligned": {**TOOD, "norm_cfg": None, "train_cfg": {**ALIGNED, "initial_epoch": 0}},
    "tood_anchors": {**TOOD, "anchor_type": "anchor_based", "norm_cfg": None, "train_cfg": ALIGNED},
    "autoassign": {
        **{"type": "AutoAssignHead", **SMALL, "strides": STRIDES, "norm_cfg": None, "force_topk": True},
        "loss_bbox": {"type": "GIoULoss", "loss_weight": 5.0},
    },
    "nas_fcos": {"type": "NASFCOSHead", **SMALL, "strides": STRIDES, "norm_cfg": None},
    "reppoints": {**REPPOINTS, "train_cfg": POINTS},
    "reppoints_square": {
        **REPPOINTS,
        "center_init": False,
        "transform_method": "minmax",
        "train_cfg": POINTS,
    },
    "reppoints_partial": {**REPPOINTS, "transform_method": "partial_minmax", "train_cfg": POINTS},
    "reppoints_grid": {
        **REPPOINTS,
        "transform_method": "minmax",
        "use_grid_points": True,
        "train_cfg": BOXES,
    },
    "yolox": {
        **{"type": "YOLOXHead", **SMALL, "strides": STRIDES, "act_cfg": {"type": "ReLU"}},
        "norm_cfg": {"type": "GN", "num_groups": 2},
        "train_cfg": {"assigner": {"type": "SimOTAAssigner"}},
        "test_cfg": {"score_thr": 0.0, "max_per_img": 10},
    },
    "yolof": {
        **{"type": "YOLOFHead", "num_classes": 3, "in_channels": 4, "norm_cfg": None},
        "anchor_generator": {**ANCHORS, "octave_base_scale": 2, "strides": STRIDES},
        "loss_cls": FOCAL,
        "loss_bbox": {"type": "GIoULoss"},
        "train_cfg": {"assigner": {"type": "UniformAssigner", "pos_ignore_thr": 0.0, "neg_ignore_thr": 0.7}},
    },
}
METAS = [
    ImageMeta((64, 64), (128, 128), (128, 128), (2.0,) * 4),
    ImageMeta((100, 90), (100, 90), (100, 90), (1.0,) * 4),
]
FULL = Targets(torch.tensor([[10.0, 12, 60, 70], [40, 30, 120, 110]]), torch.tensor([0, 2]))
EMPTY = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))


def made(name):
    torch.manual_seed(0)
    config = {"test_cfg": TEST, **HEADS[name]}
    head = Builder().build(config, "bbox_head")
    head.init_weights()
    with torch.no_grad():
        for parameter in head.parameters():  # away from the symmetric start
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return head


def maps(batch=2):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, 4, 128 // s, 128 // s, generator=generator) for s in STRIDES]


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("targets", [[FULL, EMPTY], [EMPTY, EMPTY]], ids=["half", "empty"])
def test_losses_are_finite_with_and_without_objects(name, targets):
    head = made(name).train()
    losses = head.loss(head(maps()), targets, METAS)
    total = sum(v for k, v in losses.items() if "loss" in k)
    assert torch.isfinite(total)
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", HEADS)
def test_an_image_is_detected_alone_as_in_a_batch(name):
    head, feats = made(name).eval(), maps()
    together = head.predict(head(feats), METAS, rescale=True)
    for i, meta in enumerate(METAS):
        alone = head.predict(head([m[i : i + 1] for m in feats]), [meta], rescale=True)[0]
        assert len(alone) == len(together[i]) <= 10
        torch.testing.assert_close(alone.boxes, together[i].boxes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(alone.scores, together[i].scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_head_is_built_without_memory(name):
    with torch.device("meta"):
        head = Builder().build(HEADS[name], "bbox_head")
    assert all(p.is_meta for p in head.parameters())


def test_centerness_is_one_in_the_middle_and_falls_to_the_side():
    found = centerness_of(torch.tensor([[2.0, 3, 2, 3], [1, 2, 4, 2], [1, 1, 4, 4]]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.5, 0.25]))


def test_fcos_gives_a_point_in_two_boxes_to_the_smaller_one():
    head = made("fcos")
    points = torch.tensor([[20.0, 20], [100, 100], [5, 5]])
    target = Targets(torch.tensor([[0.0, 0, 60, 60], [10, 10, 40, 40]]), torch.tensor([1, 2]))
    labels, distances = head.point_targets(points, [3, 0, 0, 0, 0], target)
    assert labels.tolist() == [2, 3, 1]
    assert distances[0].tolist() == [10, 10, 20, 20]


def test_fcos_level_is_chosen_by_the_largest_distance():
    head = made("fcos")
    target = Targets(torch.tensor([[0.0, 0, 100, 100]]), torch.tensor([1]))
    labels, _ = head.point_targets(torch.tensor([[50.0, 50], [10, 10], [10, 10]]), [2, 1, 0, 0, 0], target)
    assert labels.tolist() == [1, 3, 1]


def test_unknown_box_unit_is_an_error():
    with pytest.raises(ConfigError, match="bbox_norm_type"):
        Builder().build({**HEADS["vfnet"], "bbox_norm_type": "pixels"}, "bbox_head")


@pytest.mark.parametrize("change", [{"num_points": 8}, {"transform_method": "mean"}])
def test_reppoints_refuses_what_it_cannot_build(change):
    with pytest.raises(ConfigError, match="RepPointsHead"):
        Builder().build({**REPPOINTS, **change}, "bbox_head")


def test_fsaf_refuses_a_reduced_box_loss():
    head = Builder().build({**HEADS["fsaf"], "loss_bbox": IOU}, "bbox_head")
    with pytest.raises(ConfigError, match="reduction"):
        head.loss(head(maps()), [FULL, EMPTY], METAS)


def test_a_head_without_training_settings_says_so():
    config = {k: v for k, v in HEADS["yolox"].items() if k != "train_cfg"}
    head = Builder().build(config, "bbox_head")
    with pytest.raises(RuntimeError, match="train_cfg"):
        head.loss(head(maps()), [FULL, EMPTY], METAS)


def test_star_points_lie_on_the_box():
    offsets = star_offsets(torch.tensor([1.0, 2, 3, 4]).reshape(1, 4, 1, 1)).flatten()
    base = torch.tensor([(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1)]).float().flatten()
    rows, columns = (offsets + base).reshape(9, 2).T
    assert rows.tolist() == [-2, -2, -2, 0, 0, 0, 4, 4, 4]
    assert columns.tolist() == [-1, 0, 3] * 3


def test_geometric_mean_and_its_gradient_stay_finite():
    x = torch.tensor([-200.0, 0.0, 3.0], requires_grad=True)
    mean = geometric_mean(x, torch.tensor([-200.0, 0.0, 1.0]))
    mean.sum().backward()
    torch.testing.assert_close(mean[1:], torch.tensor([0.5, (0.9525741 * 0.7310586) ** 0.5]))
    assert torch.isfinite(x.grad).all()


def test_sides_are_read_where_the_offsets_say():
    boxes = torch.arange(36.0).reshape(1, 4, 3, 3)
    offsets = torch.zeros(1, 8, 3, 3)
    offsets[:, 2] = 1  # rows of the second side
    moved = shifted_sides(boxes, offsets)
    torch.testing.assert_close(moved[:, 0], boxes[:, 0])
    torch.testing.assert_close(moved[0, 1, :2], boxes[0, 1, 1:])


def test_alignment_is_scaled_to_the_best_overlap_of_each_box():
    head = made("tood_aligned").train()
    raw = head(maps())
    scores = torch.rand(2, 341, 3)
    anchors = torch.cat(head.prior_generator.grid_priors([(128 // s, 128 // s) for s in STRIDES], "cpu"))
    boxes = anchors.expand(2, -1, -1)
    sizes = [tuple(m.shape[-2:]) for m in raw[0]]
    found, aligned = head._assign(False, sizes, scores, boxes, [FULL, EMPTY], METAS)
    assert (found.pos_rows < 341).all()
    for box in (0, 1):
        own = found.pos_gt_index == box
        best = torch.stack([iou(a, FULL.boxes[box]) for a in found.pos_anchors[own]]).max()
        torch.testing.assert_close(aligned[own].max(), best, rtol=1e-3, atol=1e-4)


def iou(a, b):
    sides = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0)
    overlap = sides.prod()
    return overlap / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - overlap)


def test_tood_changes_its_assigner_with_the_epoch():
    head = made("tood_first").train()
    first = head.loss(head(maps()), [FULL, EMPTY], METAS)
    head.set_progress(epoch=4, iteration=0)
    later = head.loss(head(maps()), [FULL, EMPTY], METAS)
    assert first["loss_cls"] != later["loss_cls"]


def test_center_prior_takes_the_nearest_points_of_a_box_without_any():
    prior = CenterPrior(force_topk=True, topk=2, num_classes=1, strides=(8,))
    target = Targets(torch.tensor([[1.0, 1, 3, 3]]), torch.tensor([0]))
    weights, inside = prior(torch.tensor([[0.0, 0], [8, 0], [16, 16]]), [3], target)
    assert inside[:, 0].tolist() == [True, True, False]
    torch.testing.assert_close(weights[0, 0], torch.exp(torch.tensor(-0.0625)))
    assert weights[2, 0] == 0


def test_a_good_box_is_no_negative_of_its_class():
    scores, inside = torch.full((2, 2), 0.5), torch.tensor([[True], [True]])
    found = negative_loss(scores, torch.tensor([0.0, 0.9]), inside, torch.tensor([1]))
    entropy = 0.25 * torch.log(torch.tensor(2.0))
    # class 0 of both points and class 1 of the bad one count in full, class 1 of the good one not at all
    torch.testing.assert_close(found, 3 * entropy, rtol=1e-4, atol=1e-5)


def test_yolox_adds_the_l1_loss_when_switched_on():
    head = made("yolox").train()
    head.use_l1 = True
    assert "loss_l1" in head.loss(head(maps()), [FULL, EMPTY], METAS)
    priors = torch.tensor([[8.0, 16, 8, 8]])
    boxes = torch.tensor([[4.0, 10, 20, 30]])
    torch.testing.assert_close(head.decode(priors, head.encode(priors, boxes)), boxes)


def test_old_versions_of_the_state_are_told_apart():
    assert FCOSHead._version == 1
