"""What becomes of detections that are not finite."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

from detector.engine.evaluate import run_inference
from detector.engine.predicting import finite
from detector.structures.samples import Batch, Detections, ImageMeta

FIVE = Detections(
    boxes=torch.arange(20.0).reshape(5, 4),
    scores=torch.linspace(0.9, 0.5, 5),
    labels=torch.arange(5),
    masks=[{"size": [4, 4], "counts": bytes([i])} for i in range(5)],
    mask_scores=torch.linspace(0.8, 0.4, 5),
)


def damaged(field: str, row: int, value: float) -> Detections:
    column = getattr(FIVE, field).clone()
    column[row] = value
    return replace(FIVE, **{field: column})


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")], ids=["inf", "-inf", "nan"])
@pytest.mark.parametrize("field", ["boxes", "scores", "mask_scores"])
def test_only_what_is_not_finite_is_left_out(field: str, value: float) -> None:
    kept, lost = finite(damaged(field, 2, value))
    assert lost == 1
    assert kept.labels.tolist() == [0, 1, 3, 4]
    assert kept.masks is not None
    assert [mask["counts"] for mask in kept.masks] == [b"\0", b"\1", b"\3", b"\4"]
    assert torch.isfinite(kept.boxes).all()
    assert kept.mask_scores is not None
    assert len(kept.mask_scores) == 4


def test_a_finite_result_is_the_same_object() -> None:
    assert finite(FIVE) == (FIVE, 0)


class Infinite(nn.Module):
    def predict(self, batch: Batch, rescale: bool) -> list[Detections]:
        return [damaged("boxes", 1, float("inf")) if meta.image_id != 7 else FIVE for meta in batch.metas]


def test_a_test_goes_on_and_counts_them_once(caplog: pytest.LogCaptureFixture) -> None:
    metas = [ImageMeta((8, 8), (8, 8), (8, 8), image_id=number) for number in (7, 8, 9)]
    batches = [[Batch(images=torch.zeros(1, 3, 8, 8), metas=[meta])] for meta in metas]
    with caplog.at_level(logging.WARNING):
        found = run_inference(Infinite(), batches, torch.device("cpu"))
    assert {image_id: len(one) for image_id, one in found.items()} == {7: 5, 8: 4, 9: 4}
    assert [record.getMessage().split(" and ")[0] for record in caplog.records] == [
        "2 detections of 2 images have NaN or infinite numbers"
    ]
