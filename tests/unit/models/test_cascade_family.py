import copy

import pytest
import torch

from detector.build import Builder
from detector.config.mmdet_v2 import repeat_stages
from detector.errors import ConfigError
from detector.models.roi_heads.cascade import Scene
from detector.models.roi_heads.mask_heads.feature_relay import FeatureRelayHead
from detector.models.roi_heads.mask_heads.fused_semantic import FusedSemanticHead, add_pooled
from detector.models.roi_heads.mask_heads.global_context import GlobalContextHead
from detector.structures.samples import ImageMeta, Targets

CODER = {"type": "DeltaXYWHBBoxCoder", "target_stds": [0.1, 0.1, 0.2, 0.2]}
EXTRACTOR = {"type": "SingleRoIExtractor", "out_channels": 8, "featmap_strides": [4, 8]}
BOX = {
    "type": "Shared2FCBBoxHead",
    "in_channels": 8,
    "fc_out_channels": 16,
    "num_classes": 3,
    "reg_class_agnostic": True,
    "bbox_coder": CODER,
    "loss_cls": {"type": "CrossEntropyLoss"},
    "loss_bbox": {"type": "SmoothL1Loss"},
}
MASK = {
    "type": "FCNMaskHead",
    "num_convs": 2,
    "in_channels": 8,
    "conv_out_channels": 8,
    "num_classes": 3,
    "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True},
}
ASSIGNER = {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0.5}
STAGE = {
    "assigner": ASSIGNER,
    "sampler": {"type": "RandomSampler", "num": 64, "pos_fraction": 0.25},
    "mask_size": 28,
}
CASCADE = {
    "type": "CascadeRoIHead",
    "num_stages": 2,
    "stage_loss_weights": [1, 0.5],
    "bbox_roi_extractor": {**EXTRACTOR, "roi_layer": {"type": "RoIAlign", "output_size": 7}},
    "bbox_head": BOX,
    "mask_roi_extractor": {**EXTRACTOR, "roi_layer": {"type": "RoIAlign", "output_size": 14}},
    "mask_head": MASK,
    "train_cfg": [STAGE, STAGE],
    "test_cfg": {"score_thr": 0.0, "max_per_img": 4},
}
SEMANTIC = {
    "semantic_roi_extractor": {
        "type": "SingleRoIExtractor",
        "out_channels": 8,
        "featmap_strides": [8],
        "roi_layer": {"type": "RoIAlign", "output_size": 14},
    },
    "semantic_head": {
        "type": "FusedSemanticHead",
        "num_ins": 2,
        "fusion_level": 1,
        "num_convs": 1,
        "in_channels": 8,
        "conv_out_channels": 8,
        "num_classes": 5,
    },
}
HTC = {
    **CASCADE,
    **SEMANTIC,
    "type": "HybridTaskCascadeRoIHead",
    "mask_head": [{**MASK, "type": "HTCMaskHead", "with_conv_res": False}, {**MASK, "type": "HTCMaskHead"}],
}
SCNET = {
    **CASCADE,
    **SEMANTIC,
    "type": "SCNetRoIHead",
    "bbox_head": {
        **{k: v for k, v in BOX.items() if k != "type"},
        "type": "SCNetBBoxHead",
        "num_shared_fcs": 2,
    },
    "mask_head": {**MASK, "type": "SCNetMaskHead"},
    "semantic_head": {**SEMANTIC["semantic_head"], "type": "SCNetSemanticHead", "num_convs": 2},
    "glbctx_head": {
        "type": "GlobalContextHead",
        "num_convs": 2,
        "in_channels": 8,
        "conv_out_channels": 8,
        "num_classes": 3,
        "conv_to_res": True,
    },
    "feat_relay_head": {"type": "FeatureRelayHead", "in_channels": 16, "out_conv_channels": 8},
}
HEADS = {"cascade": CASCADE, "htc": HTC, "scnet": SCNET}


def build(config, **changes):
    torch.manual_seed(0)
    head = Builder().build(repeat_stages({**copy.deepcopy(config), **changes}), "model.roi_head")
    head.init_weights()
    return head


def scene(count, *, objects=2, boxes=6):
    generator = torch.Generator().manual_seed(1)
    feats = [torch.rand(count, 8, side, side, generator=generator) for side in (16, 8)]
    corner = torch.rand(count, boxes, 2, generator=generator) * 30
    side = 8 + torch.rand(count, boxes, 2, generator=generator) * 20
    proposals = list(torch.cat((corner, corner + side), dim=2))
    truth = torch.tensor([[8.0, 8, 40, 40], [20, 10, 60, 50]])[:objects]
    target = Targets(
        boxes=truth,
        labels=torch.tensor([0, 2])[:objects],
        masks=torch.ones(objects, 64, 64, dtype=torch.uint8),
        semantic=torch.full((8, 8), 3),
    )
    return feats, proposals, [target] * count, [ImageMeta((64, 64), (64, 64), (64, 64))] * count


def same(a, b):
    torch.testing.assert_close(a.boxes, b.boxes, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(a.scores, b.scores, rtol=1e-5, atol=1e-6)
    assert a.labels.tolist() == b.labels.tolist()


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("objects", [0, 2])
@pytest.mark.parametrize("boxes", [0, 6])
def test_losses_exist_with_and_without_objects_and_proposals(name, objects, boxes):
    head = build(HEADS[name])
    feats, proposals, targets, metas = scene(2, objects=objects, boxes=boxes)
    losses = head.loss(feats, proposals, targets, metas)
    expected = {f"s{i}.{part}" for i in (0, 1) for part in ("loss_cls", "loss_bbox", "acc")}
    expected |= {"loss_mask"} if name == "scnet" else {"s0.loss_mask", "s1.loss_mask"}
    expected |= {"cascade": set(), "htc": {"loss_semantic_seg"}}.get(
        name, {"loss_semantic_seg", "loss_glbctx"}
    )
    assert set(losses) == expected
    total = sum(value for key, value in losses.items() if "loss" in key)
    assert torch.isfinite(total)
    total.backward()
    if objects:
        assert [n for n, p in head.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", HEADS)
def test_images_do_not_see_each_other(name):
    head = build(HEADS[name]).eval()
    feats, proposals, _, metas = scene(2)
    both = head.predict(feats, proposals, metas, rescale=True)
    for i in (0, 1):
        alone = head.predict([f[i : i + 1] for f in feats], proposals[i : i + 1], metas[:1], rescale=True)
        same(both[i], alone[0])
        assert both[i].masks == alone[0].masks


@pytest.mark.parametrize("name", HEADS)
def test_an_image_without_proposals_has_no_detections(name):
    head = build(HEADS[name]).eval()
    feats, proposals, _, metas = scene(2)
    found = head.predict(feats, [proposals[0][:0], proposals[1]], metas, rescale=True)
    assert [len(found[0]), len(found[1])] == [0, 4]
    assert found[0].masks == []


def test_stage_weights_scale_losses_but_not_accuracy():
    feats, proposals, targets, metas = scene(1)
    plain, weighted = (
        build(CASCADE, stage_loss_weights=w).loss(feats, proposals, targets, metas) for w in ([1, 1], [1, 3])
    )
    torch.testing.assert_close(weighted["s1.loss_cls"], 3 * plain["s1.loss_cls"])
    torch.testing.assert_close(weighted["s1.acc"], plain["s1.acc"])
    torch.testing.assert_close(weighted["s0.loss_cls"], plain["s0.loss_cls"])


class Recorder:
    """Hands on to an assigner and keeps what it was asked."""

    def __init__(self, assigner):
        self.assigner, self.seen = assigner, []

    def assign(self, boxes, *rest):
        self.seen.append(boxes)
        return self.assigner.assign(boxes, *rest)


def recorded(config):
    head = build(config)
    recorders = []
    for spec in head.train_cfg:
        recorders.append(Recorder(spec.assigner))
        object.__setattr__(spec, "assigner", recorders[-1])
    return head, recorders


def test_ground_truth_does_not_move_on_to_the_next_stage():
    head, (first, second) = recorded(CASCADE)
    feats, proposals, targets, metas = scene(1)
    head.loss(feats, proposals, targets, metas)
    assert [len(b) for b in first.seen + second.seen] == [6, 6]
    assert not torch.equal(first.seen[0], second.seen[0])


def test_interleaved_masks_train_on_refined_boxes():
    head, (first, second) = recorded(HTC)
    feats, proposals, targets, metas = scene(1)
    head.loss(feats, proposals, targets, metas)
    assert [len(first.seen), len(second.seen)] == [2, 2]
    assert torch.equal(first.seen[1], second.seen[0])


def test_classes_move_boxes_by_their_own_deltas():
    box_head = Builder().build({**BOX, "reg_class_agnostic": False}, "model")
    deltas = torch.zeros(2, 12)
    deltas[:, 4] = 10.0  # class 1: one width (10 * 0.1) to the right
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 2)
    got = box_head.regress_by_class(boxes, torch.tensor([1, 2]), deltas, (64, 64))
    torch.testing.assert_close(got, torch.tensor([[10.0, 0, 20, 10], [0, 0, 10, 10]]))


def test_normed_scores_decide_the_class_a_box_moves_by():
    box_head = Builder().build({**BOX, "loss_cls": {"type": "SeesawLoss", "num_classes": 3}}, "model")
    assert box_head.fc_cls.out_features == 5
    assert box_head.likely_class(torch.tensor([[0.0, 2, 1, 0, 9]])).tolist() == [1]
    assert box_head.probabilities(torch.zeros(1, 5)).sum().item() == pytest.approx(1)


def test_each_stage_needs_its_parts():
    with pytest.raises(ConfigError, match="bbox_head: 1 entries for num_stages=2"):
        build(CASCADE, bbox_head=[BOX])
    with pytest.raises(ConfigError, match="semantic_roi_extractor"):
        build(HTC, semantic_roi_extractor=None)


def test_building_needs_no_memory():
    with torch.device("meta"):
        for config in HEADS.values():
            assert all(p.is_meta for p in build_without_values(config).parameters())


def build_without_values(config):
    return Builder().build(repeat_stages(copy.deepcopy(config)), "model.roi_head")


def test_mask_stages_see_the_one_before():
    head = build(HTC).eval()
    feats, proposals, _, _ = scene(1)
    rois = torch.cat((torch.zeros(6, 1), proposals[0]), dim=1)
    looked = head._look(feats, None)[0]
    last = list(head._all_masks(looked, rois))[-1][1]
    torch.testing.assert_close(last, head._stage_masks(1, looked, rois))
    head.mask_info_flow = False
    assert not torch.allclose(last, head._stage_masks(1, looked, rois))


def test_features_before_need_a_layer():
    head = Builder().build({**MASK, "type": "HTCMaskHead", "with_conv_res": False}, "model")
    with pytest.raises(RuntimeError, match="with_conv_res"):
        head.hidden_with(torch.zeros(1, 8, 14, 14), torch.zeros(1, 8, 14, 14))


def test_semantic_loss_ignores_label_255():
    head = FusedSemanticHead(num_ins=1, fusion_level=0, num_convs=0, in_channels=2, num_classes=2)
    logits = torch.zeros(1, 2, 1, 2)
    target = Targets(torch.zeros(0, 4), torch.zeros(0), semantic=torch.tensor([[1, 255]]))
    assert head.loss(logits, [target]).item() == pytest.approx(0.2 * 0.6931472 / 2)
    with pytest.raises(RuntimeError, match="with_seg"):
        head.loss(logits, [Targets(torch.zeros(0, 4), torch.zeros(0))])


def test_semantic_features_shrink_to_the_regions():
    pooled = torch.arange(4.0).reshape(1, 1, 2, 2)
    assert add_pooled(torch.ones(1, 1, 1, 1), pooled).item() == 2.5
    assert torch.equal(add_pooled(torch.zeros(1, 1, 2, 2), pooled), pooled)


def test_context_knows_the_classes_of_an_image():
    head = GlobalContextHead(num_convs=1, in_channels=2, conv_out_channels=2, num_classes=2, loss_weight=2.0)
    targets = [
        Targets(torch.zeros(2, 4), torch.tensor([1, 1])),
        Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)),
    ]
    logits = torch.tensor([[-50.0, 50], [-50, 0]])
    assert head.loss(logits, targets).item() == pytest.approx(2 * 0.6931472 / 4)
    scores, context = head([torch.zeros(2, 2, 4, 4)])
    assert (scores.shape, context.shape) == ((2, 2), (2, 2, 1, 1))


@pytest.mark.parametrize("count", [0, 3])
def test_relayed_features(count):
    head = FeatureRelayHead(in_channels=4, out_conv_channels=2, roi_feat_size=7)
    assert head(torch.zeros(count, 4)).shape == (count, 2, 14, 14)


def test_context_reaches_the_regions_of_its_image():
    head = build(SCNET)
    overall = torch.tensor([1.0, 2]).reshape(2, 1, 1, 1).expand(2, 8, 1, 1)
    rois = torch.tensor([[1.0, 0, 0, 8, 8], [0, 0, 0, 8, 8]])
    got = head._fused(torch.zeros(2, 8, 7, 7), Scene([], overall=overall), rois)
    assert got[:, 0, 0, 0].tolist() == [2, 1]
