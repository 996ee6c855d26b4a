"""Painting polygons into an image, a class map and an instance map, back to front.

Everything is whole-number arithmetic on plain arrays and unsmoothed ``cv2.fillPoly``, so that the bytes do
not depend on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.data.synthetic.shapes import Colour, pattern

IntPoints = NDArray[np.int32]


@dataclass(frozen=True)
class Paint:
    """How one polygon is filled: a colour and a texture."""

    points: IntPoints
    colour: Colour
    texture: str = "flat"
    period: int = 4
    phase: int = 0


@dataclass(frozen=True)
class Region:
    """A painted region: its outline as Cityscapes' polygon files hold it.

    Attributes:
        label: Cityscapes label name, with 'group' appended for a group region.
        polygon: (N, 2) pixel outline, inside the frame.
        instance_id: value in the instance map.
    """

    label: str
    polygon: IntPoints
    instance_id: int


@dataclass
class Canvas:
    """The three pictures under work and the regions painted so far.

    Shapes: image (H, W, 3) uint8 BGR, labels (H, W) uint8, instances (H, W) uint16.
    """

    height: int
    width: int
    image: NDArray[np.uint8] = field(init=False)
    labels: NDArray[np.uint8] = field(init=False)
    instances: NDArray[np.uint16] = field(init=False)
    regions: list[Region] = field(default_factory=list)
    full_area: dict[int, int] = field(default_factory=dict)
    visible: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Start from unlabelled black."""
        self.image = np.zeros((self.height, self.width, 3), np.uint8)
        self.labels = np.zeros((self.height, self.width), np.uint8)
        self.instances = np.zeros((self.height, self.width), np.uint16)

    def silhouette(
        self, paints: list[Paint]
    ) -> tuple[IntPoints, NDArray[np.bool_], tuple[int, int], int] | None:
        """One outline without holes around all paints, clipped to the frame.

        Returns:
            outline (N, 2), its mask (h, w) in the crop, the crop's (left, top), and the area before clipping;
            None if nothing is inside.
        """
        every = np.concatenate([p.points for p in paints])
        low, high = every.min(axis=0), every.max(axis=0) + 1
        whole = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        for paint in paints:
            cv2.fillPoly(whole, [paint.points - low], 1)
        left, top = max(int(low[0]), 0), max(int(low[1]), 0)
        right, bottom = min(int(high[0]), self.width), min(int(high[1]), self.height)
        if right <= left or bottom <= top:
            return None
        inside = np.ascontiguousarray(whole[top - low[1] : bottom - low[1], left - low[0] : right - low[0]])
        outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        if not outlines:
            return None
        outline = max(outlines, key=lambda c: (cv2.contourArea(c), len(c)))[:, 0, :].astype(np.int32)
        filled = np.zeros_like(inside)
        cv2.fillPoly(filled, [outline], 1)
        return outline + np.array([left, top], np.int32), filled.astype(bool), (left, top), int(whole.sum())

    def paint(
        self,
        label: str,
        label_id: int,
        instance_id: int,
        paints: list[Paint],
        *,
        least_visible: float = 0.0,
        least_pixels: int = 0,
        least_inside: float = 0.0,
    ) -> bool:
        """Paint an object as one region, unless it hides too much of an earlier one or lies too far outside.

        Args:
            label: name for the polygon file.
            label_id: value for the class map.
            instance_id: value for the instance map.
            paints: the object's parts, back to front.
            least_visible: every earlier instance keeps at least this fraction, else nothing is painted.
            least_pixels: every instance keeps and the new one has at least this many pixels.
            least_inside: fraction of the new object that must lie in the frame.

        Returns:
            Whether it was painted.
        """
        shape = self.silhouette(paints)
        if shape is None:
            return False
        outline, mask, (left, top), whole_area = shape
        area = int(mask.sum())
        if area < max(least_pixels, 1) or area < least_inside * whole_area:
            return False
        crop = np.s_[top : top + mask.shape[0], left : left + mask.shape[1]]
        hidden = self._hidden(self.instances[crop][mask])
        if not self._leaves_enough(hidden, least_visible, least_pixels):
            return False
        for other, count in hidden.items():
            self.visible[other] -= count
        self._fill(crop, mask, (left, top), paints)
        self.labels[crop][mask] = label_id
        self.instances[crop][mask] = instance_id
        if instance_id not in self.full_area:
            self.full_area[instance_id], self.visible[instance_id] = 0, 0
        self.full_area[instance_id] += area
        self.visible[instance_id] += area
        self.regions.append(Region(label, outline, instance_id))
        return True

    def _hidden(self, covered: NDArray[np.uint16]) -> dict[int, int]:
        values, counts = np.unique(covered, return_counts=True)
        return {int(v): int(c) for v, c in zip(values, counts, strict=True) if int(v) in self.visible}

    def _leaves_enough(self, hidden: dict[int, int], fraction: float, pixels: int) -> bool:
        return all(
            self.visible[other] - count >= max(fraction * self.full_area[other], pixels)
            for other, count in hidden.items()
            if other >= 24
        )

    def _fill(
        self, crop: tuple[slice, slice], mask: NDArray[np.bool_], corner: tuple[int, int], paints: list[Paint]
    ) -> None:
        size = np.array([mask.shape[1], mask.shape[0]])
        target = self.image[crop]
        np.copyto(target, np.array(paints[0].colour, np.uint8), where=mask[:, :, None])
        for paint in paints:
            points = paint.points - np.array(corner, np.int32)
            (x0, y0), (x1, y1) = np.maximum(points.min(axis=0), 0), np.minimum(points.max(axis=0) + 1, size)
            if x1 <= x0 or y1 <= y0:
                continue
            part = np.zeros((y1 - y0, x1 - x0), np.uint8)
            cv2.fillPoly(part, [points - np.array([x0, y0], np.int32)], 1)
            where = part.astype(bool) & mask[y0:y1, x0:x1]
            rows, cols = np.arange(y0, y1)[:, None], np.arange(x0, x1)[None, :]
            shades = np.clip((np.arange(512)[:, None] * np.array(paint.colour)) >> 8, 0, 255).astype(np.uint8)
            gain = np.maximum(256 + pattern(paint.texture, rows, cols, paint.period, paint.phase), 0)
            np.copyto(target[y0:y1, x0:x1], shades[gain], where=where[:, :, None])
