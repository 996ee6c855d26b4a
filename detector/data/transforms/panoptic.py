"""Boxes, masks and class map of a panoptic PNG.

Shapes: h x w the original image, G countable objects.
Source: Kirillov et al., CVPR 2019, arXiv:1801.00868; behaviour checked against MMDetection 2.28.2
LoadPanopticAnnotations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from detector.data.transforms.loading import check_disk_backend, read_image
from detector.data.transforms.sample import Annotations, Sample
from detector.errors import DatasetError

IGNORED = 255


class LoadPanopticAnnotations:
    """Copies boxes and labels and draws masks and the class map from the image's panoptic PNG.

    The class map holds the class of every region, things and stuff, and 255 elsewhere; masks are those of the
    countable objects.

    Args:
        with_bbox: load boxes.
        with_label: load labels.
        with_mask: load masks.
        with_seg: load the class map.
        file_client_args: accepted for old configs; only the disk backend exists.
    """

    def __init__(
        self,
        *,
        with_bbox: bool = True,
        with_label: bool = True,
        with_mask: bool = True,
        with_seg: bool = True,
        file_client_args: Mapping[str, Any] | None = None,
    ) -> None:
        check_disk_backend("LoadPanopticAnnotations", file_client_args)
        self.with_bbox = with_bbox
        self.with_label = with_label
        self.with_mask = with_mask
        self.with_seg = with_seg

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Fill boxes, labels, masks and semantic."""
        found = sample.annotations
        if found is None or found.segments is None:
            raise DatasetError(
                f"{sample.ori_filename or 'image'}: LoadPanopticAnnotations ran on a sample without panoptic "
                "segments. Use type='CocoPanopticDataset', or LoadAnnotations for other datasets."
            )
        if self.with_bbox:
            sample.boxes, sample.ignore_boxes = found.boxes, found.ignore_boxes
        if self.with_label:
            sample.labels = found.labels
        if self.with_mask or self.with_seg:
            self._draw(sample, found)
        return sample

    def _draw(self, sample: Sample, found: Annotations) -> None:
        segments = found.segments
        assert segments is not None, "the caller checks"
        ids = segment_ids(segments.path)
        if ids.shape != sample.ori_hw:
            raise DatasetError(
                f"{segments.path}: has {ids.shape[1]}x{ids.shape[0]} pixels (width x height), its image "
                f"{sample.ori_hw[1]}x{sample.ori_hw[0]}. Correct the file."
            )
        if self.with_seg:
            classes = np.full(ids.shape, IGNORED, np.uint8)
            for key, label in zip(segments.ids, segments.labels, strict=True):
                classes[ids == key] = label
            sample.semantic = classes
        if self.with_mask:
            masks = [(ids == key).astype(np.uint8) for key in segments.ids[segments.singles]]
            sample.masks = np.stack(masks) if masks else np.zeros((0, *ids.shape), np.uint8)


def segment_ids(path: str) -> np.ndarray:
    """(h, w) int32 segment ids of a panoptic PNG: R + 256 G + 65536 B."""
    pixels = read_image(path, flag="color").astype(np.int32)  # BGR
    ids: np.ndarray = pixels[..., 2] + 256 * pixels[..., 1] + 65536 * pixels[..., 0]
    return ids
