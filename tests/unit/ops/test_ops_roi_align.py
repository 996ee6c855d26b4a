"""RoI pooling by name, with its gradient."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torchvision.ops
from torch import Tensor

from detector.ops.roi_align import boxes_to_rois, roi_align
from detector.structures.specs import RoILayerSpec


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def regions(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(count, 2, generator=generator) * 60
    side = torch.rand(count, 2, generator=generator) * 50
    image = torch.randint(0, 2, (count, 1), generator=generator).float()
    return torch.cat((image, corner, corner + side), dim=1)


@pytest.mark.parametrize("count", [0, 1, 2, 17])
@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.usefixtures("two_threads")
def test_values_and_gradients_are_those_of_torchvision(count: int, channels: int) -> None:
    features = torch.randn(2, channels, 16, 20, generator=torch.Generator().manual_seed(0)).double()
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    found = roi_align(ours, regions(count), RoILayerSpec(output_size=3, sampling_ratio=0), spatial_scale=0.25)
    expected = torchvision.ops.roi_align(theirs, regions(count).double(), 3, 0.25, -1, aligned=True)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("two_threads")
def test_a_region_over_a_ramp_pools_its_centre() -> None:
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    pooled = roi_align(
        ramp, torch.tensor([[0.0, 2.0, 2.0, 6.0, 6.0]]), RoILayerSpec(output_size=1), spatial_scale=1.0
    )
    assert pooled.item() == pytest.approx(3.5)  # pixel centres lie at half positions: 4 - 0.5


def test_regions_carry_their_image() -> None:
    rois = boxes_to_rois([torch.ones(1, 4), torch.zeros(0, 5), torch.full((1, 5), 2.0)])
    assert rois.tolist() == [[0, 1, 1, 1, 1], [2, 2, 2, 2, 2]]
