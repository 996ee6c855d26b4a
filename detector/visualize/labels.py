"""Labels of boxes: where they go so that all can be read, and what is left out where there is no room.

Shapes: the canvas is (H, W, 3) uint8 BGR. Rectangles: x1, y1, x2, y2, whole pixels, x2 and y2 exclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.visualize.colors import Color, brightness

Image = NDArray[np.uint8]
Rect = tuple[int, int, int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SMALLEST = 0.35
#: share of the picture that labels may cover
_COVERED = 0.4
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True)
class Lettering:
    """Sizes of a text, in pixels but for ``scale``, OpenCV's.

    Attributes:
        scale: of the font.
        line: thickness.
        pad: around the text.
    """

    scale: float
    line: int
    pad: int

    @staticmethod
    def of(scale: float) -> Lettering:
        """What fits a size of the font."""
        return Lettering(scale, line=max(1, round(scale * 1.6)), pad=max(2, round(scale * 5)))

    def size(self, text: str) -> tuple[int, int, int]:
        """Width of a text, and the height above and below the base line that every text gets."""
        (_, height), below = cv2.getTextSize("Ag(", _FONT, self.scale, self.line)
        return int(cv2.getTextSize(text, _FONT, self.scale, self.line)[0][0]), int(height), int(below)

    def tag(self, text: str) -> tuple[int, int]:
        """(width, height) of a text with its pad."""
        width, height, below = self.size(text)
        return width + 2 * self.pad, height + below + self.pad


@dataclass(frozen=True)
class Label:
    """One label.

    Attributes:
        name: class.
        score: text of the score, '' for none.
        corners: of its box.
        color: of its box, BGR.
        ink: of the text, BGR; None for black or white, whichever can be read.
    """

    name: str
    score: str
    corners: Rect
    color: Color
    ink: Color | None = None

    @property
    def text(self) -> str:
        """Name and score."""
        return f"{self.name} {self.score}".strip()


@dataclass(frozen=True)
class Placed:
    """A label with its place, text and size."""

    label: Label
    text: str
    rect: Rect
    lettering: Lettering


def draw_labels(canvas: Image, labels: Sequence[Label], lettering: Lettering) -> None:
    """Draw labels, most important first in ``labels``: those lie on top where they cannot but overlap."""
    for placed in reversed(place_labels(labels, lettering, canvas)):
        _draw(canvas, placed)


def place_labels(labels: Sequence[Label], lettering: Lettering, canvas: Image) -> list[Placed]:
    """Where each label goes.

    A label takes the free place that is nearest to its box; where none is free, a smaller font is tried. In
    a picture that they would hide, the first ones are kept: together they cover a limited part of it.
    """
    height, width = canvas.shape[:2]
    room = _COVERED * height * width
    placed: list[Placed] = []
    for label in labels:
        found = _placed(label, lettering, canvas, [other.rect for other in placed])
        x1, y1, x2, y2 = found.rect
        room -= (x2 - x1) * (y2 - y1)
        if room < 0 and placed:
            break
        placed.append(found)
    return placed


def _placed(label: Label, lettering: Lettering, canvas: Image, taken: list[Rect]) -> Placed:
    """The place with the least overlap, of the largest font and fullest text that have it."""
    small = max(min(_SMALLEST, lettering.scale), lettering.scale * 0.75)
    tries = [lettering, replace(Lettering.of(small), pad=max(1, lettering.pad // 2))]
    best: tuple[int, Placed] | None = None
    for letters in tries:
        text = _fitting(label, letters, canvas.shape[1])
        covered, rect = place(letters.tag(text), label.corners, canvas, taken)
        if best is None or covered < best[0]:
            best = covered, Placed(label, text, rect, letters)
        if covered == 0:
            break
    assert best is not None  # there are two tries
    return best[1]


def _fitting(label: Label, lettering: Lettering, width: int) -> str:
    """The label's text, without its score or cut where the picture is too narrow."""
    texts = [label.text, label.name] + [f"{label.name[:n]}.." for n in range(len(label.name) - 1, 0, -1)]
    return next((text for text in texts if lettering.tag(text)[0] <= width), label.name[:1])


def place(size: tuple[int, int], box: Rect, canvas: Image, taken: Sequence[Rect]) -> tuple[int, Rect]:
    """The free place nearest to a corner of the box, or the one with the least overlap.

    Args:
        size: (width, height) of the label.
        box: corners.
        canvas: the picture, which labels stay inside of.
        taken: places of other labels.

    Returns:
        (pixels that other labels cover, place).
    """
    width, height = size
    x1, y1, x2, y2 = box
    columns = (x1, x2 - width, (x1 + x2 - width) // 2)
    rows = (y1 - height, y1, y2, y2 - height, *range(y1 + height, max(y1 + height, y2 - 2 * height), height))
    best: tuple[int, Rect] | None = None
    for top in rows:
        for left in columns:
            x = int(np.clip(left, 0, max(0, canvas.shape[1] - width)))
            y = int(np.clip(top, 0, max(0, canvas.shape[0] - height)))
            rect = (x, y, x + width, y + height)
            covered = sum(overlap(rect, other) for other in taken)
            if covered == 0:
                return 0, rect
            if best is None or covered < best[0]:
                best = (covered, rect)
    assert best is not None  # there is always a candidate
    return best


def overlap(a: Rect, b: Rect) -> int:
    """Shared area of two rectangles in pixels."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _draw(canvas: Image, placed: Placed) -> None:
    """A filled label with a thin rim."""
    x, y, right, bottom = placed.rect
    letters, color = placed.lettering, placed.label.color
    cv2.rectangle(canvas, (x, y), (right - 1, bottom - 1), color, cv2.FILLED)
    cv2.rectangle(canvas, (x, y), (right - 1, bottom - 1), _WHITE, 1)
    ink = placed.label.ink or (_BLACK if brightness(color) > 140 else _WHITE)
    _, height, _ = letters.size(placed.text)
    put_text(canvas, placed.text, (x + letters.pad, y + height + letters.pad // 2), ink, letters)


def put_text(canvas: Image, text: str, origin: tuple[int, int], ink: Color, lettering: Lettering) -> None:
    """A text whose base line starts at ``origin``."""
    arguments: Any = (canvas, text, origin, _FONT, lettering.scale, ink, lettering.line, cv2.LINE_AA)
    cv2.putText(*arguments)
