"""Results do not depend on batch size, neighbours or threads; ``DETECTOR_ALL_MODELS=1`` runs every family."""

from __future__ import annotations

import os

import pytest

from tests.parity.invariance import (
    BOXES,
    MASKS,
    SCORES,
    STEMS,
    async_equals_sync,
    ready,
    spread,
    spread_exactly,
)

#: one of each kind: dense with a fixed input, dense, two stages with masks is in test_call_patterns
QUICK = ("yolox__yolox_nano_8x8_300e_coco", "retinanet__retinanet_r50_fpn_1x_coco")
CHOSEN = STEMS if os.environ.get("DETECTOR_ALL_MODELS") else QUICK


@pytest.mark.slow
@pytest.mark.parametrize("stem", CHOSEN)
def test_results_are_those_of_each_image_alone(stem: str) -> None:
    model = ready(stem)
    worst = spread(model)
    assert worst.total > 0
    assert worst.scores <= SCORES
    assert worst.boxes <= BOXES
    assert worst.masks >= MASKS
    assert async_equals_sync(model)
    assert worst.lost == 0 or spread_exactly(model).lost == 0


def test_the_quick_models_are_recorded() -> None:
    assert set(QUICK) <= set(STEMS)
