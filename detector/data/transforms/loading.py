"""Reading an image and its annotations.

Shapes: h x w the original image, G boxes.
Source: behaviour checked against MMDetection 2.28.2 datasets/pipelines/loading.py and mmcv 1.7 image/io.py.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as coco_mask
from numpy.typing import NDArray

from detector.data.transforms.sample import Array, Sample, Segmentation
from detector.errors import ConfigError, DatasetError

log = logging.getLogger(__name__)

# cv2 turns the image by its EXIF orientation under IMREAD_COLOR and IMREAD_GRAYSCALE, never under the others
FLAGS = {
    "color": cv2.IMREAD_COLOR,
    "grayscale": cv2.IMREAD_GRAYSCALE,
    "unchanged": cv2.IMREAD_UNCHANGED,
    "color_ignore_orientation": cv2.IMREAD_IGNORE_ORIENTATION | cv2.IMREAD_COLOR,
    "grayscale_ignore_orientation": cv2.IMREAD_IGNORE_ORIENTATION | cv2.IMREAD_GRAYSCALE,
}


class UnreadableImageError(DatasetError):
    """An image file is missing, empty or not an image; the only error that the policy 'skip' passes over.

    Args:
        message: one paragraph.
        path: the file.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


def read_image(path: str, *, flag: str = "color", rgb: bool = False) -> Array:
    """Decode an image file.

    Args:
        path: file to read.
        flag: a key of ``FLAGS``.
        rgb: whether the channels come as RGB instead of BGR.

    Returns:
        (h, w, 3) uint8 for the colour flags, turned upright by EXIF.

    Raises:
        UnreadableImageError: the file cannot be opened or decoded; names it.
    """
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UnreadableImageError(
            f"{path}: cannot be opened ({error.strerror or error}). An image file was expected. "
            "Check img_prefix and file_name, or set corrupt='skip' in the dataset to leave such images out.",
            path,
        ) from error
    try:
        image = cv2.imdecode(content, FLAGS[flag]) if content.size else None
    except cv2.error:
        image = None
    if image is None:
        raise UnreadableImageError(
            f"{path}: {content.size} bytes that are not a readable image. A complete JPEG or PNG was "
            "expected. "
            "Replace the file, or set corrupt='skip' in the dataset to leave such images out.",
            path,
        )
    pixels: Array = cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if rgb and image.ndim == 3 else image
    return pixels


class LoadImageFromFile:
    """Reads ``sample.filename``; keeps an image that is already there (an array given to inference).

    Args:
        to_float32: whether to convert the pixels at once.
        color_type: a key of ``FLAGS``.
        channel_order: 'bgr' or 'rgb'.
        file_client_args: accepted for old configs; only the disk backend exists.
    """

    def __init__(
        self,
        *,
        to_float32: bool = False,
        color_type: str = "color",
        channel_order: str = "bgr",
        file_client_args: Mapping[str, Any] | None = None,
    ) -> None:
        if color_type not in FLAGS:
            raise ConfigError(
                f"LoadImageFromFile.color_type is {color_type!r}; accepted: {', '.join(FLAGS)}."
            )
        if channel_order not in ("bgr", "rgb"):
            raise ConfigError(
                f"LoadImageFromFile.channel_order is {channel_order!r}; accepted: 'bgr', 'rgb'."
            )
        check_disk_backend("LoadImageFromFile", file_client_args)
        self.to_float32 = to_float32
        self.color_type = color_type
        self.channel_order = channel_order

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Fill image and sizes."""
        if sample.image is None:
            assert sample.filename is not None, "a sample has a file name or an image"
            sample.image = read_image(sample.filename, flag=self.color_type, rgb=self.channel_order == "rgb")
        if sample.image.ndim == 2:
            sample.image = sample.image[..., None]
        if self.to_float32:
            sample.image = sample.image.astype(np.float32)
        height, width = sample.image.shape[:2]
        sample.ori_hw = sample.input_hw = sample.pad_hw = (height, width)
        return sample


class LoadAnnotations:
    """Copies boxes and labels from the annotations and draws masks.

    Args:
        with_bbox: load boxes.
        with_label: load labels.
        with_mask: load masks as bitmaps.
        with_seg: load the class map of ``seg_prefix``.
        poly2mask: False asks for polygons in MMDetection; here masks are always bitmaps.
        denorm_bbox: boxes in the file are fractions of the image size.
        file_client_args: accepted for old configs; only the disk backend exists.
    """

    def __init__(
        self,
        *,
        with_bbox: bool = True,
        with_label: bool = True,
        with_mask: bool = False,
        with_seg: bool = False,
        poly2mask: bool = True,
        denorm_bbox: bool = False,
        file_client_args: Mapping[str, Any] | None = None,
    ) -> None:
        check_disk_backend("LoadAnnotations", file_client_args)
        if with_mask and not poly2mask:
            log.warning("LoadAnnotations: poly2mask=False is read as True, masks are always drawn as bitmaps")
        self.with_bbox = with_bbox
        self.with_label = with_label
        self.with_mask = with_mask
        self.with_seg = with_seg
        self.denorm_bbox = denorm_bbox

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Fill boxes, labels, ignore_boxes and, if asked, masks and semantic."""
        found = sample.annotations
        if found is None:
            raise DatasetError(
                f"{sample.ori_filename or 'image'}: LoadAnnotations ran on a sample without annotations. "
                "It belongs in training pipelines; remove it from the test pipeline."
            )
        if self.with_bbox:
            boxes, ignore = found.boxes, found.ignore_boxes
            if self.denorm_bbox:
                height, width = sample.ori_hw
                factor = np.array([width, height, width, height], np.float32)
                boxes, ignore = boxes * factor, ignore * factor
            sample.boxes, sample.ignore_boxes = boxes, ignore
        if self.with_label:
            sample.labels = found.labels
        if self.with_mask:
            check_mask_size(sample, found.image_hw)
            sample.masks = draw_masks(
                found.segmentations, found.image_hw, len(found.boxes), str(sample.filename)
            )
        if self.with_seg:
            if found.semantic_path is None:
                raise DatasetError(
                    f"{sample.ori_filename}: LoadAnnotations(with_seg=True) but the dataset gives no class "
                    "map. "
                    "Set seg_prefix in the dataset to the folder of the maps."
                )
            sample.semantic = read_image(found.semantic_path, flag="unchanged").squeeze()
        return sample


class LoadProposals:
    """Copies the stored proposals of the image.

    Args:
        num_max_proposals: at most so many, the first ones; None takes all.
    """

    def __init__(self, *, num_max_proposals: int | None = None) -> None:
        if num_max_proposals is not None and num_max_proposals < 1:
            raise ConfigError(
                f"LoadProposals.num_max_proposals is {num_max_proposals}; expected at least 1, "
                "or None for all."
            )
        self.num_max_proposals = num_max_proposals

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Fill proposals; an image may have none."""
        if sample.stored_proposals is None:
            raise DatasetError(
                f"{sample.ori_filename or 'image'}: LoadProposals ran on a sample without stored proposals. "
                "Set proposal_file in the dataset, or remove the step."
            )
        sample.proposals = sample.stored_proposals[: self.num_max_proposals]
        return sample


def check_disk_backend(name: str, file_client_args: Mapping[str, Any] | None) -> None:
    """Raise ConfigError for a storage backend that is not the local disk."""
    backend = (file_client_args or {}).get("backend", "disk")
    if backend != "disk":
        raise ConfigError(
            f"{name}.file_client_args.backend is {backend!r}; only 'disk' exists. Remove the key."
        )


def check_mask_size(sample: Sample, stated_hw: tuple[int, int]) -> None:
    """Raise DatasetError when masks would be drawn at another size than the image has."""
    if stated_hw != sample.ori_hw:
        raise DatasetError(
            f"{sample.filename}: the image is {sample.ori_hw[1]}x{sample.ori_hw[0]} (width x height), the "
            "annotation "
            f"file says {stated_hw[1]}x{stated_hw[0]}, so its masks do not fit. Correct width and height "
            "in the "
            "annotation file (an EXIF-turned image counts as turned)."
        )


def draw_masks(
    segmentations: Sequence[Segmentation], image_hw: tuple[int, int], count: int, where: str
) -> NDArray[np.uint8]:
    """Bitmaps of run lengths and polygons.

    Args:
        segmentations: one per box.
        image_hw: (h, w) of the bitmaps.
        count: number of boxes.
        where: image file, for errors.

    Returns:
        (G, h, w) uint8 0/1.
    """
    height, width = image_hw
    out = np.zeros((count, height, width), np.uint8)
    if count == 0:
        return out
    rles = []
    for i in range(count):
        segmentation = segmentations[i] if i < len(segmentations) else None
        if segmentation is None:
            raise DatasetError(
                f"{where}: LoadAnnotations(with_mask=True), but object {i + 1} of {count} has no "
                "segmentation. Use annotations with masks, or a model and pipeline without (with_mask=False)."
            )
        if isinstance(segmentation, list):
            parts = coco_mask.frPyObjects(segmentation, height, width) if segmentation else []
            rles.append(coco_mask.merge(parts) if len(parts) != 1 else parts[0])
        else:
            rles.append(segmentation)
    for i, rle in enumerate(rles):
        # one at a time: the decoder's buffer is then reused while still in the cache; it is column-major, and
        # its transpose is a plain (w, h) array, which OpenCV turns fastest
        cv2.transpose(coco_mask.decode([rle])[:, :, 0].T, dst=out[i])
    return out
