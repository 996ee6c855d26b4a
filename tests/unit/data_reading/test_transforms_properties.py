"""What holds for any image, boxes and masks through any transform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.data.transforms import Sample
from detector.data.transforms.affine import RandomAffine
from detector.data.transforms.cropping import RandomCrop, mask_boxes
from detector.data.transforms.filtering import FilterAnnotations
from detector.data.transforms.geometric import RandomFlip, Resize
from detector.data.transforms.iou_crop import MinIoURandomCrop
from detector.data.transforms.mosaic import Mosaic
from detector.data.transforms.padding import Pad
from detector.data.transforms.placing import Expand, RandomShift

FEW = settings(max_examples=40, deadline=None)


@st.composite
def scenes(draw: Any) -> Sample:
    """An image with rectangles whose labels are their numbers, some of them ignored as well."""
    height, width = draw(st.integers(24, 60)), draw(st.integers(24, 60))
    boxes = []
    for _ in range(draw(st.integers(0, 5))):
        x, y = draw(st.integers(0, width - 4)), draw(st.integers(0, height - 4))
        boxes.append((x, y, draw(st.integers(x + 2, width)), draw(st.integers(y + 2, height))))
    found = np.array(boxes, np.float32).reshape(-1, 4)
    masks = np.zeros((len(found), height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, found.astype(int), strict=True):
        mask[y1:y2, x1:x2] = 1
    size = (height, width)
    return Sample(
        image=np.random.default_rng(draw(st.integers(0, 9))).integers(0, 256, (*size, 3), np.uint8),
        boxes=found,
        labels=np.arange(len(found)),
        ignore_boxes=found.copy(),
        masks=masks,
        semantic=np.zeros(size, np.uint8),
        ori_hw=size,
        input_hw=size,
        pad_hw=size,
    )


def well_formed(sample: Sample) -> bool:
    """Sizes agree, every box, label and mask has its partners, boxes lie inside."""
    hw = sample.pixels().shape[:2]
    assert sample.pad_hw == hw
    assert sample.masks.shape == (len(sample.boxes), *hw)
    assert sample.semantic.shape == hw
    assert len(sample.labels) == len(sample.boxes)
    for boxes in (sample.boxes, sample.ignore_boxes):
        assert boxes.dtype == np.float32
        assert (boxes >= 0).all()
        assert (boxes[:, [0, 2]] <= hw[1]).all()
        assert (boxes[:, [1, 3]] <= hw[0]).all()
        assert (boxes[:, 2:] >= boxes[:, :2]).all()
    return True


STEPS: dict[str, Callable[[], Any]] = {
    "flip": lambda: RandomFlip(flip_ratio=[0.4, 0.3, 0.3], direction=["horizontal", "vertical", "diagonal"]),
    "resize": lambda: Resize(img_scale=[(30, 40), (90, 70)], keep_ratio=True),
    "stretch": lambda: Resize(img_scale=(50, 70), keep_ratio=False),
    "crop": lambda: RandomCrop(crop_size=(20, 22), allow_negative_crop=True),
    "crop_range": lambda: RandomCrop(
        crop_size=(12, 40), crop_type="absolute_range", allow_negative_crop=True
    ),
    "crop_relative": lambda: RandomCrop(
        crop_size=(0.3, 0.5), crop_type="relative_range", allow_negative_crop=True, recompute_bbox=True
    ),
    "iou_crop": lambda: MinIoURandomCrop(),
    "expand": lambda: Expand(prob=1, ratio_range=(1, 3)),
    "shift": lambda: RandomShift(shift_ratio=1, max_shift_px=15),
    "affine": lambda: RandomAffine(border=(-4, 3), skip_filter=False),
    "pad": lambda: Pad(size_divisor=32),
    "filter": lambda: FilterAnnotations(min_gt_bbox_wh=(5, 5), keep_empty=False),
}
EXACT = ["flip", "crop", "crop_range", "crop_relative", "iou_crop", "expand", "shift", "pad", "filter"]


@pytest.mark.parametrize("name", STEPS)
@given(sample=scenes(), seed=st.integers(0, 1000))
@FEW
def test_samples_stay_well_formed(name: str, sample: Sample, seed: int) -> None:
    assert well_formed(STEPS[name]()(sample, np.random.default_rng(seed)))


@pytest.mark.parametrize("name", EXACT)
@given(sample=scenes(), seed=st.integers(0, 1000))
@FEW
def test_boxes_are_the_hulls_of_their_masks(name: str, sample: Sample, seed: int) -> None:
    out = STEPS[name]()(sample, np.random.default_rng(seed))
    np.testing.assert_array_equal(mask_boxes(out.masks), out.boxes)


@pytest.mark.parametrize("name", ["resize", "stretch"])
@given(sample=scenes(), seed=st.integers(0, 1000))
@FEW
def test_resized_boxes_are_the_hulls_to_within_a_pixel(name: str, sample: Sample, seed: int) -> None:
    out = STEPS[name]()(sample, np.random.default_rng(seed))
    seen = out.masks.any(axis=(1, 2))
    assert np.abs(mask_boxes(out.masks[seen]) - out.boxes[seen]).max(initial=0) <= 1.0


@pytest.mark.parametrize("name", ["crop", "crop_range", "iou_crop", "shift", "filter"])
@given(sample=scenes(), seed=st.integers(0, 1000))
@FEW
def test_labels_stay_with_their_objects(name: str, sample: Sample, seed: int) -> None:
    """The pixels of an object are numbered; what is left of its mask shows only its own number."""
    numbered = np.zeros((len(sample.boxes), *sample.input_hw), np.uint8)
    for i, mask in enumerate(sample.masks):
        numbered[i][mask > 0] = i + 1
    sample.masks = numbered
    out = STEPS[name]()(sample, np.random.default_rng(seed))
    shown = [set(np.unique(mask)) - {0} for mask in out.masks]
    assert [s for s, label in zip(shown, out.labels, strict=True) if s - {label + 1}] == []


@pytest.mark.parametrize("direction", ["horizontal", "vertical", "diagonal"])
@given(sample=scenes())
@FEW
def test_flipping_twice_is_the_identity(direction: str, sample: Sample) -> None:
    before = sample.copy()
    flip = RandomFlip(flip_ratio=1.0, direction=direction)
    rng = np.random.default_rng(0)
    out = flip(flip(sample, rng), rng)
    for name in ("image", "boxes", "ignore_boxes", "masks", "semantic", "labels"):
        np.testing.assert_array_equal(getattr(out, name), getattr(before, name))


@given(samples=st.lists(scenes(), min_size=4, max_size=4), seed=st.integers(0, 1000))
@FEW
def test_mosaics_hold_every_visible_object_once(samples: list[Sample], seed: int) -> None:
    total = sum(len(sample.boxes) for sample in samples)
    names = [sample.labels + 10 * i for i, sample in enumerate(samples)]
    for sample, labels in zip(samples, names, strict=True):
        sample.labels = labels
    out = Mosaic(img_scale=(40, 50)).mix(samples[0], samples[1:], np.random.default_rng(seed))
    assert well_formed(out)
    assert len(out.boxes) <= total
    assert len(set(out.labels.tolist())) == len(out.labels)
    seen = out.masks.any(axis=(1, 2))
    assert np.abs(mask_boxes(out.masks[seen]) - out.boxes[seen]).max(initial=0) <= 1.0


@pytest.mark.parametrize("name", STEPS)
@given(sample=scenes(), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_arrays_of_the_input_are_never_written(name: str, sample: Sample, seed: int) -> None:
    """The dataset's own arrays, and those shared by the views of an image, would change otherwise."""
    arrays = [getattr(sample, n) for n in ("image", "boxes", "ignore_boxes", "masks", "semantic", "labels")]
    copies = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    STEPS[name]()(sample, np.random.default_rng(seed))
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
