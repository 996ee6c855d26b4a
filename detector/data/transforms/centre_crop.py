"""The crop of the keypoint detectors: a window around a random centre, padded where it leaves the image.

Shapes: H x W the current image, G boxes.
Boxes: xyxy float32 pixels of the current image.
Source: Law and Deng, CornerNet, ECCV 2018, arXiv:1808.01244; behaviour checked against MMDetection 2.28.2
RandomCenterCropPad.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from detector.data.transforms.geometric import clip_boxes
from detector.data.transforms.iou_crop import centred
from detector.data.transforms.sample import Array, Sample
from detector.errors import ConfigError

TRIES = 50
ROUNDS = 200
PAD_MODES = ("logical_or", "size_divisor")


class RandomCenterCropPad:
    """In training, a window of crop_size times a drawn ratio around a drawn centre; in testing, padding.

    The image's part is put so that the drawn centre is the middle of the result; the rest has the mean value.

    Args:
        crop_size: (height, width) of the window before its ratio; None in test mode.
        ratios: factors of the window to draw from.
        border: least distance of the centre from the image's edges; halved until it fits small images.
        mean: pixel value of the padding, in RGB where ``to_rgb``.
        std: accepted for old configs; padding has the mean value.
        to_rgb: whether ``mean`` is in RGB; it is turned to the image's BGR.
        test_mode: pad every image whole, as ``test_pad_mode`` says.
        test_pad_mode: ('logical_or', n): sides become side | n; ('size_divisor', n): multiples of n.
        test_pad_add_pix: added to a side of 'logical_or'.
        bbox_clip_border: whether boxes are clipped to the window.
    """

    def __init__(
        self,
        *,
        crop_size: Sequence[int] | None = None,
        ratios: Sequence[float] | None = (0.9, 1.0, 1.1),
        border: int | None = 128,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        to_rgb: bool | None = None,
        test_mode: bool = False,
        test_pad_mode: Sequence[object] | None = ("logical_or", 127),
        test_pad_add_pix: int = 0,
        bbox_clip_border: bool = True,
    ) -> None:
        if mean is None or to_rgb is None:
            raise ConfigError("RandomCenterCropPad needs mean and to_rgb, the value of its padding.")
        self.mean = np.array(tuple(mean)[::-1] if to_rgb else tuple(mean), np.float32)
        self.test_mode = test_mode
        self.bbox_clip_border = bbox_clip_border
        self.test_pad_add_pix = test_pad_add_pix
        if test_mode:
            self._check_test(crop_size, ratios, border, test_pad_mode)
            return
        if crop_size is None or len(crop_size) != 2 or min(crop_size) < 1 or not ratios or border is None:
            raise ConfigError(
                f"RandomCenterCropPad has crop_size={crop_size!r}, ratios={ratios!r}, border={border!r}; "
                "training needs (height, width) above 0, at least one ratio and a border."
            )
        self.crop_size = (int(crop_size[0]), int(crop_size[1]))
        self.ratios = list(ratios)
        self.border = border

    def _check_test(
        self,
        crop_size: Sequence[int] | None,
        ratios: Sequence[float] | None,
        border: int | None,
        pad_mode: Sequence[object] | None,
    ) -> None:
        if crop_size is not None or ratios is not None or border is not None:
            raise ConfigError(
                "RandomCenterCropPad(test_mode=True) has crop_size, ratios or border; set all three to None, "
                "testing only pads."
            )
        if (
            pad_mode is None
            or len(pad_mode) != 2
            or pad_mode[0] not in PAD_MODES
            or not isinstance(pad_mode[1], int)
        ):
            raise ConfigError(
                f"RandomCenterCropPad.test_pad_mode is {pad_mode!r}; expected ('logical_or', n) or "
                "('size_divisor', n)."
            )
        self.pad_kind, self.pad_number = pad_mode[0], pad_mode[1]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample | None:
        """Crop or pad; None when no window with an object was found."""
        if sample.pixels().dtype != np.float32:
            raise ConfigError(
                "RandomCenterCropPad needs a float32 image. Set to_float32=True in LoadImageFromFile."
            )
        return self._padded(sample) if self.test_mode else self._cropped(sample, rng)

    def _padded(self, sample: Sample) -> Sample:
        image = sample.pixels()
        height, width = image.shape[:2]
        if self.pad_kind == "logical_or":
            size = tuple((side | self.pad_number) + self.test_pad_add_pix for side in (height, width))
        else:
            size = tuple(-(-side // self.pad_number) * self.pad_number for side in (height, width))
        out, border, _ = self._window(image, (height // 2, width // 2), (size[0], size[1]))
        sample.image = out
        sample.input_hw, sample.pad_hw = (height, width), (size[0], size[1])
        sample.border = border
        return sample

    def _cropped(self, sample: Sample, rng: np.random.Generator) -> Sample | None:
        if sample.masks is not None or sample.semantic is not None:
            raise ConfigError("RandomCenterCropPad takes boxes only. Set with_mask and with_seg to False.")
        image = sample.pixels()
        height, width = image.shape[:2]
        boxes = np.zeros((0, 4), np.float32) if sample.boxes is None else sample.boxes
        for _ in range(ROUNDS):
            ratio = self.ratios[int(rng.integers(len(self.ratios)))]
            size = (int(self.crop_size[0] * ratio), int(self.crop_size[1] * ratio))
            low_y, low_x = fitting_border(self.border, height), fitting_border(self.border, width)
            for _ in range(TRIES):
                x, y = int(rng.integers(low_x, width - low_x)), int(rng.integers(low_y, height - low_y))
                out, _, window = self._window(image, (y, x), size)
                if not len(boxes) or centred(window, boxes).any():
                    sample.replace_image(out)
                    self._move(sample, window, (size[1] // 2 - x, size[0] // 2 - y), size)
                    return sample
        return None

    def _move(
        self,
        sample: Sample,
        window: tuple[int, int, int, int],
        offset_xy: tuple[int, int],
        size: tuple[int, int],
    ) -> None:
        """Shift the boxes and drop those whose centre left the window."""
        offset = np.array([*offset_xy, *offset_xy], np.float32)
        if sample.boxes is not None:
            sample.keep(centred(window, sample.boxes))
            sample.boxes = sample.boxes + offset
            sample.boxes = clip_boxes(sample.boxes, size) if self.bbox_clip_border else sample.boxes
            sample.keep(np.all(sample.boxes[:, 2:] > sample.boxes[:, :2], axis=1))
        if sample.ignore_boxes is not None:
            kept = sample.ignore_boxes[centred(window, sample.ignore_boxes)] + offset
            kept = clip_boxes(kept, size) if self.bbox_clip_border else kept
            sample.ignore_boxes = kept[np.all(kept[:, 2:] > kept[:, :2], axis=1)]

    def _window(
        self, image: Array, centre_yx: tuple[int, int], size: tuple[int, int]
    ) -> tuple[Array, tuple[int, int, int, int], tuple[int, int, int, int]]:
        """The (h, w, 3) result, the image's place (top, bottom, left, right) in it, and the window."""
        y, x = centre_yx
        x0, x1 = max(0, x - size[1] // 2), min(x + size[1] // 2, image.shape[1])
        y0, y1 = max(0, y - size[0] // 2), min(y + size[0] // 2, image.shape[0])
        top, left = size[0] // 2 - (y - y0), size[1] // 2 - (x - x0)
        border = (top, top + y1 - y0, left, left + x1 - x0)
        out = np.empty((*size, image.shape[2]), image.dtype)
        out[:] = self.mean
        out[border[0] : border[1], border[2] : border[3]] = image[y0:y1, x0:x1]
        return out, border, (x0, y0, x1, y1)


def fitting_border(border: int, size: int) -> int:
    """``border`` divided by the power of two that makes twice it smaller than ``size``."""
    k = 2 * border / size
    if k <= 0:
        return 0
    divisor = 2 ** (math.ceil(math.log2(math.ceil(k))) + (k == int(k)))
    return int(border // divisor)
