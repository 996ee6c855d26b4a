"""Resize, flip, pad and crop on hand-computed values, and properties that hold for any box."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.data.transforms.cropping import RandomCrop, mask_boxes
from detector.data.transforms.geometric import RandomFlip, Resize, flip_boxes, rescaled_size
from detector.data.transforms.padding import Pad
from detector.data.transforms.photometric import Normalize
from detector.data.transforms.sample import Sample
from detector.errors import ConfigError


def make(width: int = 6, height: int = 4, boxes: Any = ((1, 1, 3, 2),)) -> Sample:
    pixels = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    found = np.array(boxes, np.float32).reshape(-1, 4)
    masks = np.zeros((len(found), height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, found.astype(int), strict=True):
        mask[y1:y2, x1:x2] = 1
    size = (height, width)
    return Sample(
        image=pixels,
        boxes=found,
        labels=np.arange(len(found)),
        ignore_boxes=np.zeros((0, 4), np.float32),
        masks=masks,
        ori_hw=size,
        input_hw=size,
        pad_hw=size,
    )


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("width", "height", "scale", "expected"),
    [
        (640, 480, (1333, 800), (1067, 800)),  # 800 / 480 = 1.6667; 640 * 1.6667 + 0.5 -> 1067
        (480, 640, (1333, 800), (800, 1067)),
        (2000, 500, (1333, 800), (1333, 333)),  # the long edge binds: 0.6665 * 500 = 333.25
        (10, 10, (20, 20), (20, 20)),
        (640, 480, (800, 1333), (1067, 800)),  # order of the pair does not matter
    ],
)
def test_rescaled_size(width: int, height: int, scale: tuple[int, int], expected: tuple[int, int]) -> None:
    assert rescaled_size(width, height, scale) == expected


def test_resize_without_ratio_scales_axes_apart_and_masks_too() -> None:
    out = Resize(img_scale=(12, 12), keep_ratio=False)(make(), rng())
    assert out.input_hw == (12, 12)
    assert out.scale_factor == (2.0, 3.0, 2.0, 3.0)
    np.testing.assert_array_equal(out.boxes, [[2, 3, 6, 6]])
    np.testing.assert_array_equal(mask_boxes(out.masks), [[2, 3, 6, 6]])


@pytest.mark.parametrize(("clip", "right"), [(True, 12.0), (False, 20.0)])
def test_resize_clips_boxes_to_the_image(clip: bool, right: float) -> None:
    sample = make()
    sample.boxes = np.array([[1, 1, 10, 2]], np.float32)
    out = Resize(img_scale=(12, 8), bbox_clip_border=clip)(sample, rng())
    assert out.boxes[0, 2] == right


def test_resize_range_draws_between_the_extremes_and_value_draws_one() -> None:
    scales = [(40, 20), (48, 28)]
    drawn = {Resize(img_scale=scales)(make(), rng(s)).scale for s in range(40)}
    assert all(40 <= long <= 48 and 20 <= short <= 28 for long, short in drawn)
    assert len(drawn) > 10
    values = {Resize(img_scale=scales, multiscale_mode="value")(make(), rng(s)).scale for s in range(20)}
    assert values == set(scales)


def test_resize_ratio_range() -> None:
    drawn = [Resize(img_scale=(100, 50), ratio_range=(0.5, 2.0))(make(), rng(s)).scale for s in range(20)]
    assert all(50 <= long <= 200 and 25 <= short <= 100 for long, short in drawn)


def test_second_resize_needs_override() -> None:
    sample = Resize(img_scale=(12, 8))(make(), rng())
    with pytest.raises(ConfigError, match="override=True"):
        Resize(img_scale=(6, 4))(sample, rng())
    assert Resize(img_scale=(6, 4), override=True)(sample, rng()).input_hw == (4, 6)


def test_three_scales_in_range_mode_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiscale_mode='value'"):
        Resize(img_scale=[(10, 10), (20, 20), (30, 30)])


@pytest.mark.parametrize(
    ("direction", "expected"),
    [("horizontal", [3, 1, 5, 2]), ("vertical", [1, 2, 3, 3]), ("diagonal", [3, 2, 5, 3])],
)
def test_flip_moves_image_boxes_and_masks_alike(direction: str, expected: list[float]) -> None:
    before = make()
    pixels = before.pixels().copy()
    out = RandomFlip(flip_ratio=1.0, direction=direction)(before, rng())
    np.testing.assert_array_equal(out.boxes, [expected])
    np.testing.assert_array_equal(mask_boxes(out.masks), [expected])
    axes = {"horizontal": 1, "vertical": 0, "diagonal": (0, 1)}[direction]
    np.testing.assert_array_equal(out.image, np.flip(pixels, axes))
    assert out.flip_direction == direction


def test_flip_shares_its_ratio_between_directions() -> None:
    flip = RandomFlip(flip_ratio=[0.25, 0.5], direction=["horizontal", "vertical"])
    drawn = [flip(make(), rng(s)).flip_direction for s in range(400)]
    assert drawn.count("horizontal") / 400 == pytest.approx(0.25, abs=0.06)
    assert drawn.count("vertical") / 400 == pytest.approx(0.5, abs=0.07)


@given(
    x=st.floats(0, 100, width=32),
    y=st.floats(0, 100, width=32),
    direction=st.sampled_from(["horizontal", "vertical", "diagonal"]),
)
def test_flipping_twice_gives_the_box_back(x: float, y: float, direction: str) -> None:
    boxes = np.array([[x, y, x + 5, y + 7]], np.float32)
    twice = flip_boxes(flip_boxes(boxes, (200, 300), direction), (200, 300), direction)
    np.testing.assert_allclose(twice, boxes, atol=1e-4)


def test_flip_without_ratio_needs_a_decision() -> None:
    with pytest.raises(ConfigError, match="flip_ratio"):
        RandomFlip()(make(), rng())


@pytest.mark.parametrize(
    ("arguments", "size"),
    [({"size_divisor": 5}, (5, 10)), ({"size": (8, 7)}, (8, 7)), ({"pad_to_square": True}, (6, 6))],
)
def test_pad(arguments: dict[str, Any], size: tuple[int, int]) -> None:
    before = make()
    out = Pad(**arguments, pad_val={"img": 9})(before, rng())
    assert out.pad_hw == size
    assert out.input_hw == (4, 6)
    assert out.image.shape[:2] == out.masks.shape[1:] == size
    assert (out.image[4:] == 9).all()
    assert (out.image[:, 6:] == 9).all()
    assert out.masks.sum() == 2


def test_normalize_on_float_and_bytes_gives_the_same() -> None:
    step = Normalize(mean=[1.5, 2.25, 3.1], std=[58.395, 57.12, 57.375])
    by_table = step(make(), rng()).image
    sample = make()
    sample.image = sample.image.astype(np.float32)
    np.testing.assert_array_equal(step(sample, rng()).image, by_table)
    # the first pixel is BGR (0, 1, 2): red is 2
    assert by_table[0, 0, 0] == pytest.approx((2 - 1.5) / 58.395)


def test_crop_shifts_boxes_and_masks_and_drops_what_is_outside() -> None:
    sample = make(20, 20, [(2, 2, 6, 6), (15, 15, 19, 19)])
    out = RandomCrop(crop_size=(10, 10), allow_negative_crop=True)(sample, rng(1))
    assert out.input_hw == (10, 10)
    assert len(out.boxes) == len(out.masks) == len(out.labels)
    np.testing.assert_array_equal(mask_boxes(out.masks), out.boxes)


def test_crop_without_boxes_drops_the_sample() -> None:
    assert RandomCrop(crop_size=(2, 2))(make(boxes=()), rng()) is None
