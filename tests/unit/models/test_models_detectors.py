import copy

import pytest
import torch

from detector.build import build_model
from detector.structures.samples import Batch, ImageMeta, Targets

GN = {"type": "GN", "num_groups": 8}
CODER = {"type": "DeltaXYWHBBoxCoder", "target_stds": [0.1, 0.1, 0.2, 0.2]}
CROSS_ENTROPY = {"type": "CrossEntropyLoss"}
EXTRACTOR = {"type": "SingleRoIExtractor", "out_channels": 16, "featmap_strides": [4, 8, 16, 32]}
ASSIGNER = {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0.5}
SAMPLER = {"type": "RandomSampler", "num": 64, "pos_fraction": 0.25}
MODEL = {
    "type": "MaskRCNN",
    "backbone": {
        "type": "ResNet",
        "depth": 18,
        "base_channels": 8,
        "norm_cfg": GN,
        "zero_init_residual": False,
    },
    "neck": {"type": "FPN", "in_channels": [8, 16, 32, 64], "out_channels": 16, "num_outs": 5},
    "rpn_head": {
        "type": "RPNHead",
        "in_channels": 16,
        "feat_channels": 16,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "scales": [4],
            "ratios": [1.0],
            "strides": [4, 8, 16, 32, 64],
        },
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
        "loss_bbox": {"type": "L1Loss"},
    },
    "roi_head": {
        "type": "StandardRoIHead",
        "bbox_roi_extractor": {**EXTRACTOR, "roi_layer": {"type": "RoIAlign", "output_size": 7}},
        "bbox_head": {
            "type": "Shared2FCBBoxHead",
            "in_channels": 16,
            "fc_out_channels": 32,
            "num_classes": 3,
            "bbox_coder": CODER,
            "loss_cls": CROSS_ENTROPY,
            "loss_bbox": {"type": "L1Loss"},
        },
        "mask_roi_extractor": {**EXTRACTOR, "roi_layer": {"type": "RoIAlign", "output_size": 14}},
        "mask_head": {
            "type": "FCNMaskHead",
            "num_convs": 1,
            "in_channels": 16,
            "conv_out_channels": 16,
            "num_classes": 3,
            "loss_mask": {**CROSS_ENTROPY, "use_mask": True},
        },
    },
    "train_cfg": {
        "rpn": {"assigner": ASSIGNER, "sampler": {**SAMPLER, "add_gt_as_proposals": False}},
        "rpn_proposal": {"nms_pre": 100, "max_per_img": 50},
        "rcnn": {"assigner": ASSIGNER, "sampler": SAMPLER, "mask_size": 28},
    },
    "test_cfg": {"rpn": {"nms_pre": 100, "max_per_img": 50}, "rcnn": {"score_thr": 0.0, "max_per_img": 5}},
}


def build(**changes):
    torch.manual_seed(0)
    model = build_model({**copy.deepcopy(MODEL), **changes}, training=True)
    model.init_weights()
    return model.train()


def batch(*objects, size=64):
    metas, targets = [], []
    for count in objects:
        boxes = torch.tensor([[8.0, 8, 40, 40], [20, 10, 60, 50]])[:count]
        masks = torch.zeros(count, size, size, dtype=torch.uint8)
        masks[:, 10:40, 10:40] = 1
        targets.append(Targets(boxes=boxes, labels=torch.tensor([0, 2])[:count], masks=masks))
        metas.append(ImageMeta((128, 128), (size, size), (size, size), scale_factor=(0.5,) * 4))
    images = torch.randn(len(objects), 3, size, size, generator=torch.Generator().manual_seed(1))
    return Batch(images=images, metas=metas, targets=targets)


def total(losses):
    return sum(value for name, value in losses.items() if "loss" in name)


@pytest.mark.parametrize("objects", [(0,), (0, 0), (2, 0), (1, 2)], ids=str)
def test_losses_are_finite_and_every_parameter_gets_a_gradient(objects):
    model = build()
    losses = model.loss(batch(*objects))
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "acc", "loss_mask"}
    assert all(value.ndim == 0 and value.isfinite() for value in losses.values())
    total(losses).backward()
    assert [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ] == []


def test_no_objects_teach_no_boxes_and_no_masks():
    losses = build().loss(batch(0))
    assert losses["loss_rpn_bbox"] == losses["loss_bbox"] == losses["loss_mask"] == 0


def test_order_of_ground_truth_does_not_change_the_loss():
    model, data = build(), batch(2)
    one = data.targets[0]
    swapped = Targets(boxes=one.boxes.flip(0), labels=one.labels.flip(0), masks=one.masks.flip(0))
    torch.manual_seed(5)
    a = total(model.loss(data))
    torch.manual_seed(5)
    b = total(model.loss(Batch(images=data.images, metas=data.metas, targets=[swapped])))
    torch.testing.assert_close(a, b)


def test_training_is_reproducible_from_the_seed():
    model, values = build(), []
    for _ in range(2):
        torch.manual_seed(5)
        values.append(total(model.loss(batch(2, 1))).item())
    assert values[0] == values[1]


def test_batch_of_two_of_one_size_predicts_what_two_singles_do():
    model, data = build().eval(), batch(1, 2)
    together = model.predict(data)
    for i, wanted in enumerate(together):
        got = model.predict(Batch(images=data.images[i : i + 1], metas=data.metas[i : i + 1]))[0]
        torch.testing.assert_close(got.boxes, wanted.boxes, rtol=1e-4, atol=1e-3)
        assert got.labels.tolist() == wanted.labels.tolist()


def test_prediction_is_in_original_pixels_with_masks():
    model, data = build().eval(), batch(1)
    original, network = model.predict(data)[0], model.predict(data, rescale=False)[0]
    assert 0 < len(original) <= 5
    torch.testing.assert_close(original.boxes, network.boxes * 2, rtol=1e-4, atol=1e-3)
    assert bool((original.scores.diff() <= 0).all())
    assert [m["size"] for m in original.masks] == [[128, 128]] * len(original)
    assert [m["size"] for m in network.masks] == [[64, 64]] * len(network)


def test_nothing_found_is_an_empty_result():
    test_cfg = {"rpn": {"max_per_img": 50}, "rcnn": {"score_thr": 1.5}}
    found = build(test_cfg=test_cfg).eval().predict(batch(1, 1))
    assert [(len(d), d.masks, tuple(d.boxes.shape)) for d in found] == [(0, [], (0, 4))] * 2


def test_test_only_model_has_no_targets_but_the_same_keys():
    tested = build_model(MODEL, training=False)
    assert tested.roi_head.train_cfg is None
    assert list(tested.state_dict()) == list(build().state_dict())
    assert (tested.with_mask, tested.num_classes) == (True, 3)


def test_rpn_alone_gives_proposals():
    parts = {key: MODEL[key] for key in ("backbone", "neck", "rpn_head")}
    cfg = {
        "type": "RPN",
        **parts,
        "train_cfg": {"rpn": MODEL["train_cfg"]["rpn"]},
        "test_cfg": {"rpn": {"max_per_img": 7}},
    }
    model = build_model(cfg, training=True)
    assert set(model.loss(batch(2))) == {"loss_rpn_cls", "loss_rpn_bbox"}
    found = model.eval().predict(batch(2))[0]
    assert len(found) == 7
    assert found.masks is None
