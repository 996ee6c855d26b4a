"""RoIAlign by bags against torchvision's operator."""

from __future__ import annotations

import pytest
import torch
import torchvision.ops
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detector.ops import roi_align as module
from detector.ops import roi_bags
from detector.ops.roi_align import roi_align, rows_per_image
from detector.ops.roi_bags import roi_align_by_bags
from detector.structures.specs import RoILayerSpec

SCALE = 0.25


def regions(count: int, seed: int, side: float = 60.0) -> Tensor:
    """Regions of three images, some beyond the borders of a 92 x 124 image."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 160 - 30
    size = torch.rand(count, 2, generator=generator) * side
    image = torch.randint(0, 3, (count, 1), generator=generator).float()
    return torch.cat((image, corner, corner + size), dim=1)


def maps(seed: int, channels: int = 5) -> Tensor:
    return torch.randn(3, channels, 23, 31, generator=torch.Generator().manual_seed(seed))


def pooled(features: Tensor, rois: Tensor, size: tuple[int, int], ratio: int, aligned: bool) -> Tensor:
    return roi_align_by_bags(
        features, rois, spatial_scale=SCALE, size=size, ratio=ratio, aligned=aligned
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(0, 12),
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
    st.integers(-1, 3).filter(bool),
    st.booleans(),
    st.sampled_from([8.0, 60.0, 200.0]),
)
def test_values_are_those_of_torchvision(
    seed: int, count: int, size: tuple[int, int], ratio: int, aligned: bool, side: float
) -> None:
    features, rois = maps(seed), regions(count, seed, side)
    wanted = torchvision.ops.roi_align(features, rois, size, SCALE, ratio, aligned)
    torch.testing.assert_close(pooled(features, rois, size, ratio, aligned), wanted, rtol=1e-5, atol=3e-6)


def test_the_layout_of_the_maps_does_not_matter() -> None:
    rois, planes = regions(9, 1), maps(1, 16)
    inner = planes.contiguous(memory_format=torch.channels_last)
    assert torch.equal(pooled(planes, rois, (7, 7), -1, True), pooled(inner, rois, (7, 7), -1, True))


def test_parts_of_the_regions_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features, rois = maps(2), regions(30, 2)
    whole = pooled(features, rois, (7, 7), -1, True)
    monkeypatch.setattr(roi_bags, "_PAIRS", 3000)
    assert torch.equal(pooled(features, rois, (7, 7), -1, True), whole)


@pytest.mark.parametrize("corner", [5.0, 500.0, -500.0, float("nan")])
def test_regions_without_pixels_give_zeros(corner: float) -> None:
    rois = torch.tensor([[0.0, corner, corner, corner, corner]])
    assert not pooled(maps(3), rois, (3, 3), -1, True).any()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(0, 12),
    st.integers(-1, 3).filter(bool),
    st.booleans(),
    st.sampled_from([8.0, 60.0, 200.0]),
)
def test_gradients_are_those_of_torchvision(
    seed: int, count: int, ratio: int, aligned: bool, side: float
) -> None:
    ours, theirs = maps(seed).requires_grad_(), maps(seed).requires_grad_()
    rois = regions(count, seed, side)
    found = pooled(ours, rois, (3, 2), ratio, aligned)
    wanted = torchvision.ops.roi_align(theirs, rois, (3, 2), SCALE, ratio, aligned)
    factors = torch.randn(found.shape, generator=torch.Generator().manual_seed(seed))
    (found * factors).sum().backward()
    (wanted * factors).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)


def test_gradients_repeat_to_the_bit_whatever_the_number_of_threads() -> None:
    rois, before, seen = regions(40, 5), torch.get_num_threads(), []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        features = maps(5).requires_grad_()
        pooled(features, rois, (7, 7), -1, True).square().sum().backward()
        seen.append(features.grad)
    torch.set_num_threads(before)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], seen[2])


def test_deterministic_mode_and_cpu_take_the_bags(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(module, "roi_align_by_bags", lambda *_a, **_k: called.append("bags"))
    spec, rois = RoILayerSpec(output_size=2), regions(3, 4)
    roi_align(maps(4), rois, spec, spatial_scale=SCALE)
    assert called == ["bags"]
    assert roi_align(maps(4).half(), rois, spec, spatial_scale=SCALE).shape == (3, 5, 2, 2)
    assert called == ["bags"]


def test_rows_of_one_image_are_not_cut() -> None:
    rows = torch.arange(6).reshape(3, 2)
    assert rows_per_image(rows, [7])[0] is rows
    assert [part.tolist() for part in rows_per_image(rows, [1, 2])] == [[[0, 1]], [[2, 3], [4, 5]]]
