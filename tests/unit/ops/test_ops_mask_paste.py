"""Small masks to run lengths at image size: right pixels, the reference's bits, bounded memory."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from detector.ops import mask_paste
from detector.ops.mask_paste import encode_runs, paste_masks


def pasted(mask: Tensor, box: list[float], hw: tuple[int, int]) -> Any:
    return coco_mask.decode(paste_masks(mask[None], torch.tensor([box]), hw, threshold=0.5)[0])


def examples(count: int, hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Blobs in boxes of all sizes, some beyond the border of the image."""
    generator = torch.Generator().manual_seed(count)
    sides = torch.rand(count, 2, generator=generator) * torch.tensor(hw[::-1]) + 1
    corners = torch.rand(count, 2, generator=generator) * torch.tensor(hw[::-1]) - sides / 2
    blobs = interpolate(torch.rand(count, 1, 5, 5, generator=generator), (28, 28), mode="bilinear")[:, 0]
    return blobs, torch.cat((corners, corners + sides), dim=1)


def by_bitmaps(masks: Tensor, boxes: Tensor, hw: tuple[int, int], threshold: float) -> list[Any]:
    """The plain way: each mask resampled over the whole image, then encoded."""
    ys, xs = (torch.arange(side, dtype=torch.float32) + 0.5 for side in hw)
    encoded = []
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        grid = torch.stack(
            (
                ((xs - x0) / (x1 - x0) * 2 - 1).expand(*hw),
                ((ys - y0) / (y1 - y0) * 2 - 1)[:, None].expand(*hw),
            ),
            dim=-1,
        )
        values = grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
        encoded.append(coco_mask.encode(np.asfortranarray((values >= threshold).numpy().astype(np.uint8))))
    return encoded


def test_full_mask_fills_its_box() -> None:
    got = pasted(torch.ones(28, 28), [2.0, 3.0, 8.0, 7.0], (10, 12))
    wanted = np.zeros((10, 12), np.uint8)
    wanted[3:7, 2:8] = 1
    np.testing.assert_array_equal(got, wanted)


def test_half_mask_fills_half_the_box() -> None:
    mask = torch.zeros(28, 28)
    mask[:, :14] = 1
    got = pasted(mask, [0.0, 0.0, 20.0, 10.0], (10, 20))
    assert got[:, :10].all()
    assert not got[:, 10:].any()


@pytest.mark.parametrize(
    "box",
    [[-50.0, -50, -20, -20], [100.0, 100, 140, 140], [5.0, 5, 5, 9], [float("nan"), 0, 9, 9]],
    ids=["before", "behind", "flat", "not a number"],
)
def test_box_without_pixels_gives_an_empty_mask(box: list[float]) -> None:
    got = pasted(torch.ones(28, 28), box, (30, 40))
    assert got.shape == (30, 40)
    assert not got.any()


def test_masks_do_not_leak_into_each_other() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [5.0, 5, 15, 15]])
    rles = paste_masks(torch.ones(2, 28, 28), boxes, (20, 20), threshold=0.5)
    assert coco_mask.area(rles).tolist() == [100, 100]


def test_nothing() -> None:
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (10, 10), threshold=0.5) == []


@pytest.mark.parametrize("pixels", [64, 1000, 2**18, 2**23], ids=["bands", "few", "cpu", "gpu"])
@pytest.mark.parametrize("threshold", [0.5, 0.55])
def test_pieces_of_every_size_give_the_bits_of_whole_bitmaps(
    pixels: int, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_paste, "PIXELS_CPU", pixels)
    masks, boxes = examples(40, (48, 64))
    assert paste_masks(masks, boxes, (48, 64), threshold=threshold) == by_bitmaps(
        masks, boxes, (48, 64), threshold
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_runs_of_columns_are_encoded_as_the_bitmap_is(height: int, width: int, data: st.DataObject) -> None:
    pixels = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    bitmap = np.array(pixels, np.uint8).reshape(width, height)
    parts = []
    for column, values in enumerate(bitmap):
        ends = np.flatnonzero(np.diff(np.concatenate(([0], values, [0])))).reshape(-1, 2)
        parts.append(ends + column * height)
    assert encode_runs(parts, (height, width)) == coco_mask.encode(np.asfortranarray(bitmap.T))


MEMORY = """
import resource, torch
from detector.ops.mask_paste import paste_masks
torch.set_num_threads(1)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def paste(count, height, width):
    masks = torch.nn.functional.interpolate(torch.rand(count, 1, 4, 4), (28, 28), mode="bilinear")[:, 0]
    boxes = torch.tensor([[0.0, 0.0, width, height]]) * torch.linspace(0.1, 1, count)[:, None] ** 2
    return paste_masks(masks, boxes, (height, width), threshold=0.5)
paste(3, 900, 1200)
before = peak()
assert len(paste(100, 3000, 4000)) == 100
print(peak() - before)
"""


@pytest.mark.slow
def test_a_hundred_masks_of_a_large_image_need_little_memory() -> None:
    """As float32 at image size they would be 4800 MB, and a single one 48 MB."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 24
