"""Models built from the reference's configs, against the numbers recorded from it (tests/golden/models).

``python -m tests.parity.harness`` prints the same figures as a table.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.parity.harness import (
    GOLDEN,
    Differences,
    compare,
    golden_input,
    load,
    loss_batch,
    matches,
)

STEMS = sorted(path.stem for path in (GOLDEN / "models").glob("*.npz"))
#: largest difference of summaries, in standard deviations; of losses and gradient norms, relative
TOLERANCE = {"feats": 1e-4, "raw": 1e-4, "unmatched": 0.02, "losses": 1e-4, "grad_norm": 1e-4, "grads": 1e-3}
#: what a file cannot hold to, with the reason beside it
EXCEPTIONS: dict[str, dict[str, float]] = {
    # float32 itself: these outputs differ from float64 by up to 2.8e-4 of their standard deviation
    "gn+ws__faster_rcnn_r50_fpn_gn_ws-all_1x_coco": {"feats": 3e-4, "raw": 3e-4},
    # likewise: the recorded values differ from float64 by 1.06e-4, those here by 1.01e-4
    "yolox__yolox_nano_8x8_300e_coco": {"raw": 2e-4},
    # one gradient of 0.17 in 1087, a sum that cancels: in float64 it is 0.1686, recorded 0.1678, here 0.1662
    "detectors__detectors_cascade_rcnn_r50_1x_coco": {"grads": 2e-2},
    # convolution kernels of another number of threads or another processor round differently, and these
    # gradients are sums that cancel: measured with one thread 3.6e-4 and 3.5e-3 (YOLOv3), 1.1e-3 (NAS-FCOS),
    # on another processor 3.6e-4 (NAS-FPN); with two threads here all are below 1e-5
    "yolo__yolov3_d53_320_273e_coco": {"grad_norm": 1e-3, "grads": 1e-2},
    "nas_fcos__nas_fcos_nashead_r50_caffe_fpn_gn-head_4x4_1x_coco": {"grads": 5e-3},
    "nas_fpn__retinanet_r50_fpn_crop640_50e_coco": {"grad_norm": 1e-3, "grads": 5e-3},
    # 9,002 scores are exactly 1: which of them come first the reference left to an unstable sort
    "pvt__retinanet_pvt-t_fpn_1x_coco": {"unmatched": 1.0},
}
#: models whose losses carry the same float32 noise through a normalised weight: compared in testing only
TESTING_ONLY = {"gn+ws__faster_rcnn_r50_fpn_gn_ws-all_1x_coco"}
#: the loss that draws random numbers, whose state at the recording is unknown
RANDOM_LOSS = {
    "grid_rcnn__grid_rcnn_r50_fpn_gn-head_1x_coco": "loss_grid",
    "point_rend__point_rend_r50_caffe_fpn_mstrain_1x_coco": "loss_point",
}


def faults(stem: str, found: Differences) -> dict[str, Any]:
    """The figures of ``found`` that exceed their tolerance; what the file does not hold is NaN and passes."""
    limits = TOLERANCE | EXCEPTIONS.get(stem, {})
    if stem in RANDOM_LOSS:
        limits = {name: value for name, value in limits.items() if name not in ("grad_norm", "grads")}
        found.losses = max(
            abs(own - recorded) / max(abs(recorded), 1e-3)
            for name, (own, recorded) in (found.details or {}).items()
            if name not in (RANDOM_LOSS[stem], "loss")
        )
    figures = {name: float(getattr(found, name)) for name in limits}
    wrong: dict[str, Any] = {name: value for name, value in figures.items() if value > limits[name]}
    if any(own != recorded for own, recorded in found.counts):
        wrong["counts"] = found.counts
    if found.mask_iou < limits.get("mask_iou", 0.99):
        wrong["mask_iou"] = found.mask_iou
    if found.no_grad is not None and found.no_grad[0] != found.no_grad[1]:
        wrong["no_grad"] = found.no_grad
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize("stem", STEMS)
def test_a_model_gives_the_recorded_numbers(stem: str) -> None:
    found = compare(stem, training=stem not in TESTING_ONLY)
    assert not faults(stem, found)
    assert not math.isnan(found.feats)


@pytest.mark.slow
@pytest.mark.parametrize("stem", sorted(RANDOM_LOSS))
def test_a_recorded_random_loss_is_among_those_drawn(stem: str) -> None:
    _, info, model = load(stem)
    model.train()
    drawn = []
    with torch.no_grad():
        for seed in range(24):
            torch.manual_seed(seed)
            drawn.append(model.loss(loss_batch(info, model))[RANDOM_LOSS[stem]].item())
    spread, mean = torch.std_mean(torch.tensor(drawn))
    assert abs(info["losses"][RANDOM_LOSS[stem]] - mean) < 3 * spread
    assert spread < 0.02 * mean


def test_detections_of_saturated_scores_are_among_the_tied_ones() -> None:
    golden, info, model = load("pvt__retinanet_pvt-t_fpn_1x_coco")
    head = model.eval().bbox_head
    head.test_cfg = replace(
        head.test_cfg,
        nms_pre=-1,
        score_thr=1 - 1e-7,
        max_per_img=-1,
        nms=replace(head.test_cfg.nms, iou_threshold=1.0),
    )
    for name, case in info["cases"].items():
        with torch.no_grad():
            tied = model.predict(golden_input(info, case))[0]
        rows = golden[f"{name}/dets"]
        assert (rows[:, 4] == 1).all()
        assert len(tied) > 5000
        assert len(matches(rows, golden[f"{name}/labels"], tied)) >= 0.98 * len(rows)
