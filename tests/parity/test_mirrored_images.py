"""Test-time augmentation with the golden weights: an image and its mirror image give mirrored detections.

With the mirrored views the model sees the same pictures for both, so only the way to a view and back can tell
them apart; the models themselves know left from right.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from detector.build import build_model
from detector.config import load_config
from detector.structures import masks
from detector.structures.samples import Batch, Detections, ImageMeta, Rle
from detector.structures.views import flip_boxes
from tests.parity.harness import WEIGHTS, load, mask_iou, reference_configs

#: golden file or config
MODELS = {
    "retinanet": "retinanet__retinanet_r50_fpn_1x_coco",
    "fcos": "fcos__fcos_r50_caffe_fpn_gn-head_1x_coco",
    "yolo": "yolo__yolov3_d53_320_273e_coco",
    "rpn": "rpn__rpn_r50_fpn_1x_coco",
    "mask_rcnn": "mask_rcnn__mask_rcnn_r50_fpn_1x_coco",
    "point_rend": "point_rend__point_rend_r50_caffe_fpn_mstrain_1x_coco",
    "cascade": "cascade_rcnn/cascade_mask_rcnn_r50_fpn_1x_coco.py",
    "htc": "htc/htc_r50_fpn_1x_coco.py",
    "scnet": "scnet/scnet_r50_fpn_1x_coco.py",
}
SIZE = (88, 120)
AXES = {None: [], "horizontal": [-1], "vertical": [-2], "diagonal": [-2, -1]}
pytestmark = pytest.mark.slow


def model_of(name: str) -> Any:
    """The model with golden weights, in eval mode, with few proposals and detections, of any score."""
    model: Any
    if MODELS[name].endswith(".py"):
        config = load_config(reference_configs() / MODELS[name]).data["model"]
        model = build_model(config, training=False)
        WEIGHTS.fill_model(model)
    else:
        model = load(MODELS[name])[2]
    if hasattr(model, "rpn_head"):
        model.rpn_head.test_cfg = replace(model.rpn_head.test_cfg, max_per_img=50)
    if hasattr(model, "roi_head"):
        model.roi_head.test_cfg = replace(model.roi_head.test_cfg, max_per_img=10, score_thr=0.0)
    return model.eval()


def views_of(image: Tensor, directions: list[str | None], scales: tuple[float, ...]) -> list[Batch]:
    """What MultiScaleFlipAug makes of an image (1, 3, H, W): resized, mirrored, padded to multiples of 32."""
    views = []
    height, width = image.shape[-2:]
    for scale in scales:
        hw = (round(height * scale), round(width * scale))
        resized = interpolate(image, hw, mode="bilinear", align_corners=False)
        factor = (hw[1] / width, hw[0] / height) * 2
        for direction in directions:
            padded = pad(resized.flip(AXES[direction]), (0, -hw[1] % 32, 0, -hw[0] % 32))
            size = (padded.shape[-2], padded.shape[-1])
            views.append(Batch(padded, [ImageMeta((height, width), hw, size, factor, direction)]))
    return views


def partners(found: Detections, wanted: Detections) -> list[tuple[int, int]]:
    """Pairs of rows with the same label, box within 1e-3 pixels and score within 1e-5."""
    distance = (found.boxes[:, None] - wanted.boxes[None]).abs().amax(dim=2)
    close = (distance < 1e-3) & (found.labels[:, None] == wanted.labels[None])
    close &= (found.scores[:, None] - wanted.scores[None]).abs() < 1e-5
    pairs: dict[int, int] = {}
    for i, j in torch.nonzero(close).tolist():
        if j not in pairs.values():
            pairs.setdefault(i, j)
    return list(pairs.items())


def mirrored(rle: Rle, axes: list[int]) -> Rle:
    return masks.encode(torch.from_numpy(masks.decode(rle)).flip(axes))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_mirrored_image_gives_mirrored_detections(name: str) -> None:
    model, image, direction = model_of(name), WEIGHTS.golden_image(*SIZE), "horizontal"
    found, other = (
        model.predict_views(views_of(one, [None, direction], (1.0, 0.7))) for one in (image, image.flip(-1))
    )
    assert len(found) == len(other) >= 10
    back = Detections(flip_boxes(other.boxes, SIZE, direction), other.scores, other.labels)
    pairs = partners(found, back)
    assert len(pairs) >= 0.98 * len(found)
    if model.with_mask:
        assert found.masks is not None
        assert other.masks is not None
        ious = [mask_iou(found.masks[i], mirrored(other.masks[j], [-1])) for i, j in pairs]
        assert min(ious) >= 0.98
        assert all(mask["size"] == list(SIZE) for mask in found.masks)
        assert (masks.areas(found.masks) > 0).sum() >= 5


@pytest.mark.parametrize("direction", ["diagonal"])
@torch.no_grad()
def test_every_direction_goes_there_and_back(direction: str) -> None:
    model, image = model_of("mask_rcnn"), WEIGHTS.golden_image(*SIZE)
    found, other = (
        model.predict_views(views_of(one, list(AXES), (1.0,))) for one in (image, image.flip(AXES[direction]))
    )
    back = Detections(flip_boxes(other.boxes, SIZE, direction), other.scores, other.labels)
    pairs = partners(found, back)
    assert len(found) == 10
    assert len(pairs) >= 0.98 * len(found)
    assert found.masks is not None
    assert other.masks is not None
    ious = [mask_iou(found.masks[i], mirrored(other.masks[j], AXES[direction])) for i, j in pairs]
    assert min(ious) >= 0.98


@torch.no_grad()
def test_without_the_mirrored_view_the_detections_differ() -> None:
    model, image = model_of("retinanet"), WEIGHTS.golden_image(*SIZE)
    found, other = (model.predict_views(views_of(one, [None], (1.0,))) for one in (image, image.flip(-1)))
    back = Detections(flip_boxes(other.boxes, SIZE, "horizontal"), other.scores, other.labels)
    assert len(partners(found, back)) < 0.2 * len(found)
