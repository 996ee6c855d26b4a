"""Training transforms on values worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detector.data.transforms import Sample, build_pipeline
from detector.data.transforms.affine import RandomAffine, warp_boxes
from detector.data.transforms.catalog import TRANSFORMS
from detector.data.transforms.centre_crop import RandomCenterCropPad, fitting_border
from detector.data.transforms.copy_paste import CopyPaste
from detector.data.transforms.filtering import AutoAugment, FilterAnnotations, SegRescale
from detector.data.transforms.geometric import Resize
from detector.data.transforms.iou_crop import MinIoURandomCrop, window_ious
from detector.data.transforms.mixing import MixUp
from detector.data.transforms.mosaic import Mosaic, quarter
from detector.data.transforms.padding import Pad
from detector.data.transforms.photometric import PhotoMetricDistortion, YOLOXHSVRandomAug
from detector.data.transforms.pipeline import Pipeline
from detector.data.transforms.placing import CutOut, Expand, RandomShift
from detector.errors import ConfigError


def make(boxes: Any = ((2, 3, 10, 9),), hw: tuple[int, int] = (20, 30), value: int | None = None) -> Sample:
    """An image with rectangles as masks; its class map numbers the columns."""
    height, width = hw
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    found = np.array(boxes, np.float32).reshape(-1, 4)
    masks = np.zeros((len(found), height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, found.astype(int), strict=True):
        mask[y1:y2, x1:x2] = 1
    return Sample(
        image=pixels if value is None else np.full_like(pixels, value),
        boxes=found,
        labels=np.arange(len(found)),
        ignore_boxes=found.copy(),
        masks=masks,
        semantic=np.tile(np.arange(width, dtype=np.uint8), (height, 1)),
        ori_hw=hw,
        input_hw=hw,
        pad_hw=hw,
    )


def boxes_only(*args: Any, **more: Any) -> Sample:
    sample = make(*args, **more)
    sample.masks = sample.semantic = None
    return sample


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class Scripted:
    """A generator whose draws are given."""

    def __init__(self, *values: Any) -> None:
        self.values = list(values)

    def take(self, *args: Any, **more: Any) -> Any:
        return self.values.pop(0)

    random = uniform = integers = permutation = take


def test_expand_moves_everything_by_the_corner() -> None:
    before = make()
    pixels = before.pixels().copy()
    # do it; twice as large; 7.9 right and 4.2 down
    out = Expand(mean=(1, 2, 3), to_rgb=True, seg_ignore_label=255)(before, Scripted(0.1, 2.0, 7.9, 4.2))  # type: ignore[arg-type]
    assert out.input_hw == out.pad_hw == (40, 60)
    assert out.boxes.tolist() == out.ignore_boxes.tolist() == [[9, 7, 17, 13]]
    np.testing.assert_array_equal(out.image[4:24, 7:37], pixels)
    assert out.image[0, 0].tolist() == [3, 2, 1]
    assert (out.semantic[0] == 255).all()
    assert out.masks[0, 7:13, 9:17].all()
    assert out.masks.sum() == 48


def test_expand_may_do_nothing() -> None:
    assert Expand(prob=0.5)(make(), Scripted(0.6)).input_hw == (20, 30)  # type: ignore[arg-type]


def test_shift_moves_and_loses_what_leaves() -> None:
    before = make([(2, 3, 10, 9), (25, 1, 29, 5)])
    pixels = before.pixels().copy()
    out = RandomShift(shift_ratio=1)(before, Scripted(0.0, np.array([4, -2])))  # type: ignore[arg-type]
    assert out.boxes.tolist() == [[6, 1, 14, 7]], "the second is one pixel wide and too thin"
    assert out.labels.tolist() == [0]
    np.testing.assert_array_equal(out.image[:18, 4:], pixels[2:, :-4])
    assert not out.image[18:].any()
    assert not out.image[:, :4].any()
    assert out.masks[0, 1:7, 6:14].all()
    assert out.semantic[0].tolist() == [255] * 4 + list(range(26))


def test_a_shift_that_loses_everything_is_not_made() -> None:
    out = RandomShift(shift_ratio=1)(make(), Scripted(0.0, np.array([-20, 0])))  # type: ignore[arg-type]
    assert out.boxes.tolist() == [[2, 3, 10, 9]]


def test_window_ious_by_hand() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 5, 15, 15], [20, 20, 30, 30]], np.float32)
    np.testing.assert_allclose(window_ious((0, 0, 10, 10), boxes), [1, 25 / 175, 0])


@pytest.mark.parametrize("seed", range(8))
def test_iou_crop_keeps_its_promise(seed: int) -> None:
    before = make([(2, 3, 10, 9), (15, 10, 28, 19)], hw=(40, 40))
    originals = before.boxes.copy()
    out = MinIoURandomCrop(min_ious=(0.3,), min_crop_size=0.5)(before, rng(seed))
    assert len(out.boxes) == len(out.labels) == len(out.masks) >= 1
    assert out.image.shape[:2] == out.input_hw == out.masks.shape[1:] == out.semantic.shape
    left = int(out.semantic[0, 0])
    # a kept box lies where it was, cut at the window
    for box, label in zip(out.boxes, out.labels, strict=True):
        wanted = np.clip(originals[label][[0, 2]] - left, 0, out.input_hw[1])
        np.testing.assert_allclose(box[[0, 2]], wanted)


def test_iou_crop_takes_empty_images() -> None:
    out = MinIoURandomCrop(min_ious=())(make([]), rng(1))
    assert out.boxes.shape == (0, 4)


def test_cut_out_fills_holes_and_leaves_objects() -> None:
    before = make(value=9)
    out = CutOut(n_holes=1, cutout_shape=(4, 3), fill_in=(0, 1, 2))(before, Scripted(1, 5, 6, 0))  # type: ignore[arg-type]
    assert (out.image[6:9, 5:9] == [0, 1, 2]).all()
    assert (out.image == 9).all(axis=2).sum() == 20 * 30 - 12
    assert out.boxes.tolist() == [[2, 3, 10, 9]]


@pytest.mark.parametrize("seed", range(4))
def test_photometric_keeps_shape_and_objects(seed: int) -> None:
    out = PhotoMetricDistortion()(make(), rng(seed))
    assert out.image.dtype == np.float32
    assert out.image.shape == (20, 30, 3)
    assert np.isfinite(out.image).all()


def test_brightness_and_contrast_by_hand() -> None:
    # brightness on: +10; contrast first and on: x 1.5; saturation, hue, channel swap off
    steps = Scripted(1, 10.0, 1, 1, 1.5, 0, 0, 0)
    out = PhotoMetricDistortion()(make(value=100), steps)  # type: ignore[arg-type]
    np.testing.assert_allclose(out.image, 165.0)


def test_hsv_changes_the_value_of_grey_only_in_brightness() -> None:
    gains = Scripted(np.array([1.0, 1.0, 1.0]), np.array([1, 0, 1]))
    out = YOLOXHSVRandomAug(value_delta=30)(make(value=100), gains)  # type: ignore[arg-type]
    assert (out.image == 130).all()
    with pytest.raises(ConfigError, match="float32"):
        YOLOXHSVRandomAug()(PhotoMetricDistortion()(make(), rng()), rng())


def test_affine_without_change_cuts_the_border() -> None:
    step = RandomAffine(
        max_rotate_degree=0,
        max_translate_ratio=0,
        scaling_ratio_range=(1, 1),
        max_shear_degree=0,
        border=(-4, -5),
    )
    before = make([(2, 3, 10, 9), (25, 15, 29, 19)])
    pixels = before.pixels().copy()
    out = step(before, rng())
    assert out.input_hw == (12, 20)
    np.testing.assert_array_equal(out.image, pixels[:12, :20])
    assert out.boxes.tolist() == [[2, 3, 10, 9]]
    assert out.masks.sum() == 48


def test_warped_boxes_are_hulls_of_their_corners() -> None:
    quarter_turn = np.array([[0, -1, 100], [1, 0, 0], [0, 0, 1]], np.float32)  # x' = 100 - y, y' = x
    assert warp_boxes(np.array([[10, 20, 30, 60]], np.float32), quarter_turn).tolist() == [[40, 10, 80, 30]]


@pytest.mark.parametrize(("skip_filter", "kept"), [(True, 2), (False, 1)])
def test_affine_drops_thin_boxes_when_asked(skip_filter: bool, kept: int) -> None:
    step = RandomAffine(
        max_rotate_degree=0, max_translate_ratio=0, max_shear_degree=0, skip_filter=skip_filter
    )
    assert len(step(boxes_only([(2, 3, 10, 9), (2, 3, 3, 9)]), rng()).boxes) == kept


@pytest.mark.parametrize(
    ("position", "place", "offset"),
    [
        # a part of 30 x 40 (height x width) around (50, 20) on a canvas of 80 x 100
        (0, (10, 0, 50, 20), (0, 10)),  # its lower 20 rows
        (1, (50, 0, 90, 20), (0, 10)),
        (2, (10, 20, 50, 50), (0, 0)),
        (3, (50, 20, 90, 50), (0, 0)),
    ],
)
def test_quarters_of_a_mosaic(position: int, place: Any, offset: Any) -> None:
    assert quarter(position, (50, 20), (30, 40), (80, 100)) == (place, offset)


def test_mosaic_by_hand() -> None:
    """Four images of 20 x 30 around (20, 25) on 40 x 60, of which only the last is scaled, by a half."""
    parts = [make([(2, 3, 10, 9)], value=v) for v in (10, 20, 30)]
    parts.append(make([(4, 6, 20, 18)], hw=(40, 60), value=40))
    out = Mosaic(img_scale=(20, 30)).compose(parts[0], parts[1:], (25, 22))
    # upper left: 5 columns of it lie outside on the left, and it begins at row 2
    assert out.boxes.tolist() == [[0, 5, 5, 11], [27, 5, 35, 11], [0, 25, 5, 31], [27, 25, 35, 31]]
    assert out.ignore_boxes.tolist() == out.boxes.tolist()
    assert out.input_hw == (40, 60)
    corners = {(2, 0): 10, (21, 24): 10, (2, 25): 20, (22, 0): 30, (39, 24): 30, (22, 25): 40, (39, 54): 40}
    assert {key: int(out.image[key][0]) for key in corners} == corners
    assert out.image[0, 0, 0] == out.image[39, 55, 0] == 114
    areas = out.masks.sum(axis=(1, 2)).tolist()
    assert areas == [30, 48, 30, 48]
    assert int(out.semantic[2, 25]) == 0
    assert int(out.semantic[0, 0]) == 255


def test_mixup_by_hand() -> None:
    other = boxes_only([(2, 3, 10, 9)], value=200)
    # as large as the image, mirrored, not moved
    out = MixUp(img_scale=(20, 30)).mix(boxes_only([], value=100), [other], Scripted(1.0, 0.1))  # type: ignore[arg-type]
    assert (out.image == 150).all()
    assert out.boxes.tolist() == [[20, 3, 28, 9]]
    assert out.labels.tolist() == [0]


def test_mixup_without_objects_does_nothing() -> None:
    out = MixUp(img_scale=(20, 30)).mix(boxes_only(value=100), [boxes_only([], value=200)], rng())
    assert (out.image == 100).all()


def test_copy_paste_takes_what_it_covers() -> None:
    sample = make([(0, 0, 10, 10), (12, 0, 20, 10), (0, 12, 4, 16)], value=1)
    other = make([(5, 0, 20, 10)], value=2)
    out = CopyPaste(selected=False, bbox_occluded_thr=1, mask_occluded_thr=40).mix(sample, [other], rng())
    # half of the first is left (50 pixels), nothing of the second, the third is untouched
    assert out.boxes.tolist() == [[0, 0, 5, 10], [0, 12, 4, 16], [5, 0, 20, 10]]
    assert out.labels.tolist() == [0, 2, 0]
    assert out.masks.sum(axis=(1, 2)).tolist() == [50, 16, 150]
    assert int(out.masks.sum(axis=0).max()) == 1
    assert (out.image[:10, 5:20] == 2).all()
    assert (out.image[10:] == 1).all()


@pytest.mark.parametrize(
    ("mode", "add", "size"), [("logical_or", 1, (32, 32)), ("size_divisor", 0, (32, 32))]
)
def test_centre_padding_in_testing(mode: str, add: int, size: tuple[int, int]) -> None:
    number = 31 if mode == "logical_or" else 32
    step = RandomCenterCropPad(
        ratios=None, border=None, mean=[1, 2, 3], to_rgb=True, test_mode=True,
        test_pad_mode=[mode, number], test_pad_add_pix=add,
    )  # fmt: skip
    sample = Sample(image=np.full((20, 30, 3), 9, np.float32))
    out = step(sample, rng())
    assert (out.input_hw, out.pad_hw, out.image.shape[:2]) == ((20, 30), size, size)
    assert out.meta().border == (6, 26, 1, 31)
    assert (out.image[6:26, 1:31] == 9).all()
    assert out.image[0, 0].tolist() == [3, 2, 1]


@pytest.mark.parametrize(
    ("border", "size", "expected"), [(128, 500, 128), (128, 200, 64), (128, 256, 64), (0, 9, 0)]
)
def test_the_border_fits_small_images(border: int, size: int, expected: int) -> None:
    assert fitting_border(border, size) == expected


def test_centre_crop_keeps_the_image_where_the_boxes_are() -> None:
    step = RandomCenterCropPad(crop_size=(24, 24), ratios=[1.0], border=4, mean=[0, 0, 0], to_rgb=False)
    before = boxes_only([(12, 6, 20, 16)])
    before.image = before.image.astype(np.float32)
    pixels = before.image.copy()
    # ratio, centre x 15, centre y 10: the centre comes to (12, 12), so everything moves by (-3, 2)
    out = step(before, Scripted(0, 15, 10))  # type: ignore[arg-type]
    assert out.boxes.tolist() == [[9, 8, 17, 18]]
    np.testing.assert_array_equal(out.image[8:18, 9:17], pixels[6:16, 12:20])


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        ({"min_gt_bbox_wh": (6, 5)}, [0]),
        ({"min_gt_bbox_wh": (1, 1), "by_mask": True, "min_gt_mask_area": 21}, [0]),
        ({"min_gt_bbox_wh": (99, 1), "keep_empty": False}, []),
        ({"min_gt_bbox_wh": (99, 1)}, None),
    ],
)
def test_filter(arguments: dict[str, Any], labels: list[int] | None) -> None:
    out = FilterAnnotations(**arguments)(make([(2, 3, 10, 9), (1, 1, 6, 5)]), rng())
    assert (None if out is None else out.labels.tolist()) == labels


def test_seg_rescale() -> None:
    out = SegRescale(scale_factor=0.125)(make(hw=(64, 96)), rng())
    assert out.semantic.shape == (8, 12)
    assert out.semantic[0].tolist() == list(range(0, 96, 8))


def test_auto_augment_draws_a_policy() -> None:
    policies = [Pipeline([Resize(img_scale=(w, w), keep_ratio=False)]) for w in (8, 16)]
    sizes = {AutoAugment(policies=policies)(make(), rng(seed))[0].input_hw for seed in range(10)}
    assert sizes == {(8, 8), (16, 16)}


def test_policies_build_with_their_own_paths() -> None:
    policies = [[{"type": "Resize", "img_scale": (8, 8)}], [{"type": "Resiz"}]]
    with pytest.raises(ConfigError, match=r"pipeline\.0\.policies\.1\.0\.type is 'Resiz'"):
        build_pipeline([{"type": "AutoAugment", "policies": policies}])


def test_pad_takes_a_value_per_channel() -> None:
    out = Pad(size=(22, 31), pad_val={"img": (1, 2, 3)})(make(), rng())
    assert out.image[21, 30].tolist() == [1, 2, 3]


def test_pillow_resizes_like_pillow() -> None:
    from PIL import Image

    before = make()
    expected = np.array(Image.fromarray(before.pixels()).resize((15, 10), Image.Resampling.BILINEAR))
    out = Resize(img_scale=(15, 10), backend="pillow")(before, rng())
    np.testing.assert_array_equal(out.image, expected)


@pytest.mark.parametrize("name", ["Albu", "InstaBoost", "Corrupt", "LoadMultiChannelImageFromFiles"])
def test_steps_that_do_not_exist_say_why(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"pipeline\.0\.type is '{name}', which is not available: .*;"):
        build_pipeline([{"type": name}])


WRONG = [
    ("Expand", {"ratio_range": (0.5, 2)}, "at least 1"),
    ("Expand", {"prob": 2}, "in [0, 1]"),
    ("RandomShift", {"max_shift_px": -1}, "at least 0"),
    ("MinIoURandomCrop", {"min_ious": (2,)}, "in [0, 1]"),
    ("MinIoURandomCrop", {"min_crop_size": 0}, "in (0, 1]"),
    ("CutOut", {"n_holes": 1}, "exactly one"),
    ("CutOut", {"n_holes": (3, 1), "cutout_shape": (1, 1)}, "fewest, most"),
    ("RandomAffine", {"scaling_ratio_range": (0, 1)}, "above 0"),
    ("RandomAffine", {"max_translate_ratio": 2}, "in [0, 1]"),
    ("Mosaic", {"img_scale": 640}, "(height, width)"),
    ("MixUp", {"ratio_range": (2, 1)}, "low first"),
    ("FilterAnnotations", {"by_box": False}, "at least one"),
    ("SegRescale", {"backend": "pillow"}, "'cv2'"),
    ("AutoAugment", {"policies": []}, "at least one"),
    ("RandomCenterCropPad", {"crop_size": (3, 3)}, "needs mean"),
    ("PhotoMetricDistortion", {"contrast_range": 1}, "two numbers"),
    ("Resize", {"backend": "tifffile"}, "cv2, pillow"),
]


@pytest.mark.parametrize(("name", "arguments", "part"), WRONG, ids=[f"{n}-{p}" for n, _, p in WRONG])
def test_wrong_arguments_say_what_is_expected(name: str, arguments: dict[str, Any], part: str) -> None:
    assert name in TRANSFORMS
    with pytest.raises(ConfigError) as error:
        build_pipeline([{"type": name, **arguments}])
    assert part in str(error.value)
    assert str(error.value).startswith("pipeline.0")
