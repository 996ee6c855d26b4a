"""Several views of one image: merged by the heads that MMDetection merges them for, refused by the others."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detector.build import build_model
from detector.engine.evaluate import run_inference
from detector.engine.predicting import predict_images
from detector.errors import ConfigError
from detector.inference import detect, init_detector
from detector.models.catalog import CATALOG
from detector.models.dense_heads.dense_head import DenseHead
from detector.models.dense_heads.selection import Candidates, DenseTestSpec
from detector.models.detectors.base import metas_of_views
from detector.models.roi_heads.roi_head import RoIHead, RoITestSpec
from detector.ops.mask_paste import paste_masks
from detector.structures.samples import Batch, Detections, ImageMeta
from detector.structures.specs import NmsSpec

GN = {"type": "GN", "num_groups": 8}
EXTRACTOR = {"type": "SingleRoIExtractor", "out_channels": 16, "featmap_strides": [4, 8, 16, 32]}
BACKBONE = {
    "type": "ResNet", "depth": 18, "base_channels": 8, "norm_cfg": GN, "zero_init_residual": False,
}  # fmt: skip
NECK = {"type": "FPN", "in_channels": [8, 16, 32, 64], "out_channels": 16, "num_outs": 5}
ANCHORS = {"type": "AnchorGenerator", "scales": [4], "ratios": [1.0], "strides": [4, 8, 16, 32, 64]}
CODER = {"type": "DeltaXYWHBBoxCoder"}
RPN_HEAD = {
    "type": "RPNHead", "in_channels": 16, "feat_channels": 16, "anchor_generator": ANCHORS,
    "bbox_coder": CODER, "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
    "loss_bbox": {"type": "L1Loss"},
}  # fmt: skip
BOXES = {
    "type": "Shared2FCBBoxHead", "in_channels": 16, "fc_out_channels": 32, "num_classes": 3,
    "bbox_coder": {**CODER, "target_stds": [0.1, 0.1, 0.2, 0.2]}, "loss_cls": {"type": "CrossEntropyLoss"},
    "loss_bbox": {"type": "L1Loss"},
}  # fmt: skip
MASKS = {
    "type": "FCNMaskHead", "num_convs": 1, "in_channels": 16, "conv_out_channels": 16, "num_classes": 3,
    "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True},
}  # fmt: skip
REGIONS = {
    "bbox_roi_extractor": {**EXTRACTOR, "roi_layer": {"type": "RoIAlign", "output_size": 7}},
    "mask_roi_extractor": {**EXTRACTOR, "roi_layer": {"type": "RoIAlign", "output_size": 14}},
}
PROPOSALS = {"nms_pre": 100, "max_per_img": 30, "nms": {"type": "nms", "iou_threshold": 0.7}}
TESTED = {"rpn": PROPOSALS, "rcnn": {"score_thr": 0.0, "max_per_img": 8}}
RETINA_HEAD = {
    "type": "RetinaHead", "num_classes": 3, "in_channels": 16, "stacked_convs": 1, "feat_channels": 16,
    "anchor_generator": ANCHORS, "bbox_coder": CODER,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "retinanet": {"bbox_head": RETINA_HEAD, "test_cfg": {"score_thr": 0.0, "nms_pre": 60, "max_per_img": 8}},
    "rpn": {"rpn_head": RPN_HEAD, "test_cfg": {"rpn": PROPOSALS}},
    "mask_rcnn": {
        "rpn_head": RPN_HEAD,
        "roi_head": {"type": "StandardRoIHead", **REGIONS, "bbox_head": BOXES, "mask_head": MASKS},
        "test_cfg": TESTED,
    },
    "cascade": {
        "rpn_head": RPN_HEAD,
        "roi_head": {
            "type": "CascadeRoIHead", "num_stages": 2, "stage_loss_weights": [1, 0.5], **REGIONS,
            "bbox_head": {**BOXES, "reg_class_agnostic": True}, "mask_head": MASKS,
        },
        "test_cfg": TESTED,
    },
}  # fmt: skip
TYPES = {"retinanet": "RetinaNet", "rpn": "RPN", "mask_rcnn": "MaskRCNN", "cascade": "CascadeRCNN"}
#: dense heads without test-time augmentation in MMDetection 2.28.2; every other one of the catalog has it
WITHOUT = {
    "PAAHead", "SABLRetinaHead", "GuidedAnchorHead", "GARPNHead", "GARetinaHead", "YOLOXHead", "SOLOHead",
    "DecoupledSOLOHead", "DecoupledSOLOLightHead", "SOLOV2Head",
}  # fmt: skip
PLAIN = ImageMeta((20, 40), (20, 40), (32, 64))
MIRRORED = ImageMeta((20, 40), (40, 80), (64, 96), (2.0,) * 4, "horizontal")


def build(name: str) -> Any:
    torch.manual_seed(0)
    node = {"type": TYPES[name], "backbone": BACKBONE, "neck": NECK, **MODELS[name]}
    model = build_model(copy.deepcopy(node), training=False)
    model.init_weights()
    return model.eval()


def image(seed: int = 0, count: int = 1) -> Batch:
    """Images of 50 x 90 pixels, original ones of 25 x 45, padded to 64 x 96."""
    images = torch.zeros(count, 3, 64, 96)
    images[:, :, :50, :90] = torch.randn(count, 3, 50, 90, generator=torch.Generator().manual_seed(seed))
    metas = [ImageMeta((25, 45), (50, 90), (64, 96), (2.0,) * 4, image_id=i) for i in range(count)]
    return Batch(images, metas)


def mirrored(batch: Batch) -> Batch:
    """The other view of the same images."""
    images = batch.images.clone()
    images[..., :90] = images[..., :90].flip(-1)
    return Batch(images, [replace(meta, flip_direction="horizontal") for meta in batch.metas])


def assert_same(found: Detections, wanted: Detections) -> None:
    assert len(wanted) > 4
    torch.testing.assert_close(found.boxes, wanted.boxes, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found.scores, wanted.scores, rtol=1e-5, atol=1e-6)
    assert found.labels.tolist() == wanted.labels.tolist()
    assert found.masks == wanted.masks


@pytest.mark.parametrize("name", MODELS)
def test_one_view_twice_is_that_view(name: str) -> None:
    model, view = build(name), image()
    assert_same(model.predict_views([view, view]), model.predict_views([view]))


def test_one_view_of_a_dense_head_is_its_prediction() -> None:
    model, view = build("retinanet"), image()
    assert_same(model.predict_views([view]), model.predict(view)[0])


@pytest.mark.parametrize("name", ["mask_rcnn", "cascade"])
def test_one_view_of_regions_is_their_prediction(name: str) -> None:
    model, view = build(name), image()
    feats = model.extract_feat(view.images)
    proposals = model.rpn_head.propose(model.rpn_head(feats), view.metas)[0][:, :4]
    wanted = model.roi_head.predict(feats, [proposals], view.metas, rescale=True)[0]
    assert_same(model.roi_head.predict_views([feats], proposals / 2, view.metas), wanted)


@pytest.mark.parametrize("name", MODELS)
def test_the_order_of_views_does_not_matter(name: str) -> None:
    model, view = build(name), image()
    both = [view, mirrored(view)]
    found = model.predict_views(both)
    assert_same(model.predict_views(both[::-1]), found)
    alone = model.predict_views([view])
    assert not torch.allclose(found.scores[:5], alone.scores[:5], rtol=1e-4)


class ScriptedRegions(RoIHead):
    """Says of view ``i`` what it was given for it, and keeps the regions it was asked about."""

    with_mask = True

    def __init__(self, boxes: list[Tensor], scores: list[Tensor], masks: list[Tensor]) -> None:
        super().__init__()
        self.boxes, self.scores, self.masks = boxes, scores, masks
        self.test_cfg = RoITestSpec(score_thr=0.05, max_per_img=10)
        self.asked: list[list[float]] = []

    def look(self, feats: Sequence[Tensor]) -> int:
        return int(feats[0])

    def region_boxes(self, scene: int, rois: Tensor, meta: ImageMeta) -> tuple[Tensor, Tensor]:
        self.asked.append(rois[0].tolist())
        return self.boxes[scene], self.scores[scene]

    def region_masks(self, scene: int, rois: Tensor, labels: Tensor) -> Tensor:
        self.asked.append(rois[0].tolist())
        return self.masks[scene]


def test_regions_of_two_views_by_hand() -> None:
    head = ScriptedRegions(
        [torch.tensor([[2.0, 4, 10, 12]]), torch.tensor([[56.0, 8, 76, 24]])],
        [torch.tensor([[0.6, 0.4]]), torch.tensor([[0.8, 0.2]])],
        [torch.tensor([[[1.0, 0], [1, 0]]]), torch.tensor([[[0.5, 1], [0, 1]]])],
    )
    views = [[torch.tensor(0)], [torch.tensor(1)]]
    found = head.predict_views(views, torch.tensor([[2.0, 4, 10, 12]]), [PLAIN, MIRRORED])
    assert found.boxes.tolist() == [[2, 4, 11, 12]]
    assert found.scores.tolist() == pytest.approx([0.7])
    assert found.labels.tolist() == [0]
    # the proposal, then the merged box, in pixels of either view
    assert head.asked == [[0, 2, 4, 10, 12], [0, 60, 8, 76, 24], [0, 2, 4, 11, 12], [0, 58, 8, 76, 24]]
    merged = torch.tensor([[[1.0, 0.25], [1, 0]]])
    assert found.masks == paste_masks(merged, found.boxes, (20, 40), threshold=0.5)


class ScriptedCandidates(DenseHead):
    """Gives raw outputs back as the candidates they are."""

    def __init__(self) -> None:
        super().__init__()
        self.test_cfg = DenseTestSpec(nms=NmsSpec(iou_threshold=0.5), max_per_img=2)

    def select(self, raw: Any, metas: Sequence[ImageMeta], *, rescale: bool) -> list[Candidates]:
        assert not rescale
        return [raw]


def candidates(*rows: tuple[float, ...]) -> Candidates:
    """Rows of x1, y1, x2, y2, score, label."""
    table = torch.tensor(rows)
    return Candidates(table[:, :4], table[:, 4], table[:, 5].long(), table[:, 4])


def test_candidates_of_two_views_by_hand() -> None:
    plain = candidates((2, 4, 10, 12, 0.6, 0), (20, 4, 30, 14, 0.2, 0))
    # in the image: the first box again and surer, and once more as another class
    other = candidates((60, 8, 76, 24, 0.9, 0), (60, 8, 76, 24, 0.3, 1))
    found = ScriptedCandidates().predict_views(iter([plain, other]), [PLAIN, MIRRORED])
    assert found.boxes.tolist() == [[2, 4, 10, 12], [2, 4, 10, 12]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.3])
    assert found.labels.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["mask_rcnn", "cascade"])
def test_an_image_without_proposals_has_no_detections(name: str) -> None:
    model, view = build(name), image()
    feats = [model.extract_feat(one.images) for one in (view, mirrored(view))]
    metas = [*view.metas, *mirrored(view).metas]
    found = model.roi_head.predict_views(feats, torch.zeros(0, 4), metas)
    assert len(found) == 0
    assert found.masks == []


def test_the_heads_without_test_time_augmentation_are_those_of_the_reference() -> None:
    dense = {name for name, kind in CATALOG.items() if issubclass(kind, DenseHead) and not kind.merges_views}
    regions = {name for name, kind in CATALOG.items() if issubclass(kind, RoIHead) and not kind.merges_views}
    assert dense == WITHOUT
    assert regions == {"GridRoIHead"}


@pytest.mark.parametrize("name", ["PAAHead", "YOLOXHead", "GridRoIHead", "FastRCNN", "SOLO"])
def test_a_head_without_it_is_named_before_the_model_runs(name: str) -> None:
    head = CATALOG[name].__new__(CATALOG[name])
    with pytest.raises(ConfigError, match=f"2 views.*not defined for {type(head).__name__}.*flip=False"):
        metas_of_views([image(), image()], head=head)


@pytest.mark.parametrize("name", MODELS)
def test_a_refusing_model_does_not_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(name)
    refusing = model if name == "rpn" else getattr(model, "bbox_head", None) or model.roi_head
    monkeypatch.setattr(type(refusing), "merges_views", False)
    monkeypatch.setattr(model, "extract_feat", lambda _: pytest.fail("the backbone ran"))
    with pytest.raises(ConfigError, match=type(refusing).__name__):
        model.predict_views([image(), image()])


def test_views_of_several_images_at_once_are_refused() -> None:
    with pytest.raises(ConfigError, match="batches of 2 images; expected 1"):
        build("retinanet").predict_views([image(count=2), image(count=2)])


def test_batches_of_several_images_are_merged_image_by_image() -> None:
    model, both = build("mask_rcnn"), image(count=2)
    views = [both, mirrored(both)]
    results = run_inference(model, [views], torch.device("cpu"))
    assert list(results) == [0, 1]
    for i in range(2):
        own = Batch(both.images[i : i + 1], both.metas[i : i + 1])
        assert_same(results[i], model.predict_views([own, mirrored(own)]))


def test_the_pipeline_s_views_reach_the_model_scale_by_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = [
        {"type": "Resize", "keep_ratio": True},
        {"type": "RandomFlip"},
        {"type": "Pad", "size_divisor": 32},
        {"type": "ImageToTensor", "keys": ["img"]},
        {"type": "Collect", "keys": ["img"]},
    ]
    pipeline = [
        {"type": "LoadImageFromFile"},
        {
            "type": "MultiScaleFlipAug", "img_scale": [(96, 64), (48, 32)], "flip": True,
            "flip_direction": ["horizontal", "vertical"], "transforms": inner,
        },
    ]  # fmt: skip
    node = {"type": "RetinaNet", "backbone": BACKBONE, "neck": NECK, **MODELS["retinanet"]}
    section = {"type": "CocoDataset", "pipeline": pipeline}
    (tmp_path / "config.py").write_text(f"model = {node!r}\ndata = dict(test={section!r})\n")
    model: Any = init_detector(tmp_path / "config.py", device="cpu")
    seen: list[tuple[tuple[int, int], str | None]] = []
    merge = model.predict_views

    def recording(views: Sequence[Batch]) -> Detections:
        seen.extend((view.metas[0].input_hw, view.metas[0].flip_direction) for view in views)
        found: Detections = merge(views)
        return found

    monkeypatch.setattr(model, "predict_views", recording)
    found = detect(model, [np.zeros((60, 90, 3), np.uint8), np.full((50, 90, 3), 200, np.uint8)])
    directions = [None, "horizontal", "vertical"]
    assert seen[:6] == [(hw, d) for hw in ((64, 96), (32, 48)) for d in directions]
    assert [hw for hw, _ in seen[6:]] == [(53, 96)] * 3 + [(27, 48)] * 3
    assert [len(one) for one in found] == [8, 8]


def test_a_single_view_is_predicted_as_ever() -> None:
    model, both = build("mask_rcnn"), image(count=2)
    for found, wanted in zip(predict_images(model, [both]), model.predict(both), strict=True):
        assert_same(found, wanted)
