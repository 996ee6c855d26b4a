"""Values at points, in maps and in regions."""

from __future__ import annotations

import torch

from detector.ops.point_sample import (
    grid_points,
    point_sample,
    region_to_map,
    sample_regions,
    simple_roi_align,
)


def ramp(height: int = 4, width: int = 8) -> torch.Tensor:
    """A map whose value is the x of the pixel's centre, in pixels."""
    return (torch.arange(width) + 0.5).expand(1, 1, height, width).contiguous()


def test_points_are_fractions_of_the_map() -> None:
    points = torch.tensor([[[0.25, 0.5], [0.5, 0.5], [1.5, 0.5]]])
    assert point_sample(ramp(), points)[0, 0].tolist() == [2.0, 4.0, 0.0]


def test_points_of_regions_land_in_the_map() -> None:
    points = torch.tensor([[[0.0, 0.0], [1.0, 0.5]]])
    boxes = torch.tensor([[8.0, 0, 16, 16]])
    assert region_to_map(points, boxes, (4, 8), scale=0.25).tolist() == [[[0.25, 0.0], [0.5, 0.5]]]


def test_regions_of_several_images_keep_their_order() -> None:
    maps = torch.cat((ramp(), ramp() * 10))
    rois = torch.tensor([[1.0, 8, 0, 16, 16], [0, 8, 0, 16, 16], [1, 0, 0, 32, 16]])
    points = torch.full((3, 1, 2), 0.5)
    assert sample_regions(maps, rois, points, scale=0.25).flatten().tolist() == [30.0, 3.0, 40.0]
    assert sample_regions(maps, rois[:0], points[:0], scale=0.25).shape == (0, 1, 1)


def test_simple_roi_align_reads_the_middle_of_each_bin() -> None:
    assert grid_points((1, 2), torch.device("cpu")).tolist() == [[0.25, 0.5], [0.75, 0.5]]
    pooled = simple_roi_align(ramp(), torch.tensor([[0.0, 4, 4, 20, 12]]), (1, 2), spatial_scale=0.25)
    assert pooled.flatten().tolist() == [2.0, 4.0]
