"""Suppression and pooling, recorded with some boxes and played back with others."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detector.ops.nms import multiclass_nms
from detector.ops.recording import is_recorded
from detector.ops.roi_align import boxes_to_rois, roi_align
from detector.structures.specs import NmsSpec, RoILayerSpec


def boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 100
    return torch.cat((corner, corner + 5 + torch.rand(count, 2, generator=generator) * 40), dim=1)


class Suppression(nn.Module):
    def forward(self, found: Tensor, scores: Tensor) -> Any:
        return multiclass_nms(found, scores, score_thr=0.5, spec=NmsSpec(), max_num=20)


class Pooling(nn.Module):
    def forward(self, features: Tensor, found: Tensor) -> Tensor:
        return roi_align(features, boxes_to_rois([found]), RoILayerSpec(output_size=3), spatial_scale=0.25)


def recorded(module: nn.Module, *example: Tensor) -> Any:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.jit.trace(module, example, check_trace=False)


def test_nothing_is_recorded_as_a_rule() -> None:
    assert not is_recorded()


@pytest.mark.parametrize(("count", "lift"), [(700, 0.5), (40, 0.0), (40, -1.0)], ids=["many", "few", "none"])
def test_suppression_holds_for_other_counts(count: int, lift: float) -> None:
    scores = torch.rand(600, 4, generator=torch.Generator().manual_seed(0))
    play = recorded(Suppression(), boxes(600, 0), scores)
    found = boxes(count, 1), torch.rand(count, 4, generator=torch.Generator().manual_seed(1)) + lift
    for got, wanted in zip(play(*found), Suppression()(*found), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("count", [0, 3, 30])
def test_pooling_holds_for_other_counts(count: int) -> None:
    features = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(2))
    play = recorded(Pooling(), features, boxes(10, 0))
    found = boxes(count, 3)
    with torch.no_grad():
        torch.testing.assert_close(play(features, found), Pooling()(features, found))
