"""Charts drawn with Pillow: bars, histograms and a map of box sizes.

Sizes are pixels of the picture. Colours are RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

INK, SOFT, LINE, PAPER = (32, 36, 44), (106, 114, 128), (222, 226, 232), (255, 255, 255)
#: one per data set, in order; told apart by the colour-blind as well (Okabe and Ito, 2008)
SET_COLORS: tuple[Color, ...] = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233))
SHOWN_CLASSES = 24
#: box areas that COCO calls small, medium and large, as sides of squares
COCO_SIDES = (32, 96)


@dataclass(frozen=True)
class Frame:
    """A rectangle of the picture."""

    x: int
    y: int
    width: int
    height: int

    def inner(self, left: int, top: int, right: int, bottom: int) -> Frame:
        """The rectangle without its margins."""
        return Frame(self.x + left, self.y + top, self.width - left - right, self.height - top - bottom)


@cache
def font(size: int) -> Font:
    """Pillow's own font."""
    return ImageFont.load_default(size)


def text(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    words: str,
    *,
    size: int = 15,
    color: Color = INK,
    anchor: str = "la",
) -> None:
    """Write words; ``anchor`` says which point of them lies at the place, as Pillow names it."""
    draw.text(place, words, fill=color, font=font(size), anchor=anchor)


def shortened(words: str, width: float, size: int = 15) -> str:
    """Words cut to a width."""
    if font(size).getlength(words) <= width:
        return words
    while words and font(size).getlength(words + "...") > width:
        words = words[:-1]
    return words + "..."


def _heading(draw: ImageDraw.ImageDraw, frame: Frame, title: str, subtitle: str) -> None:
    text(draw, (frame.x, frame.y), title, size=19)
    text(draw, (frame.x, frame.y + 25), shortened(subtitle, frame.width, 14), size=14, color=SOFT)


def class_bars(
    draw: ImageDraw.ImageDraw,
    frame: Frame,
    names: Sequence[str],
    counts: NDArray[np.int64],
    colors: Sequence[Color],
) -> None:
    """Objects per class, one bar each, largest first, split by data set.

    Args:
        draw: where to.
        frame: place.
        names: k classes.
        counts: (k, s) objects of each class in each data set.
        colors: s colours.
    """
    totals = counts.sum(axis=1)
    order = np.argsort(-totals, kind="stable")
    shown, rest = order[:SHOWN_CLASSES], order[SHOWN_CLASSES:]
    subtitle = f"{len(names)} classes, {int(totals.sum()):,} objects"
    if len(rest):
        subtitle += f"; not shown: {len(rest)} rarer classes, {int(totals[rest].sum()):,} objects"
    _heading(draw, frame, "Objects per class", subtitle)
    label_width = min(
        int(max((font(15).getlength(names[i]) for i in shown), default=0)) + 12, frame.width // 3
    )
    plot = frame.inner(label_width, 56, 80, 4)
    pitch = min(plot.height / max(1, len(shown)), 64)
    largest = max(1, int(totals.max(initial=0)))
    for line, index in enumerate(shown):
        top, middle = plot.y + line * pitch, plot.y + (line + 0.5) * pitch
        label = shortened(names[index], label_width - 10)
        text(draw, (plot.x - 8, middle), label, anchor="rm", size=min(15, int(pitch) + 1))
        left = float(plot.x)
        for part, color in zip(counts[index], colors, strict=False):
            right = left + plot.width * float(part) / largest
            if part:
                draw.rectangle(
                    (left, top + pitch * 0.14, max(right, left + 1), top + pitch * 0.86), fill=color
                )
            left = right
        text(draw, (left + 6, middle), f"{int(totals[index]):,}", anchor="lm", size=14, color=SOFT)


def size_map(draw: ImageDraw.ImageDraw, image: Image.Image, frame: Frame, sizes: NDArray[np.float64]) -> None:
    """How many boxes have a width and height, both axes logarithmic.

    Args:
        draw: of ``image``.
        image: where to.
        frame: place.
        sizes: (m, 2) widths and heights in pixels, above 0.
    """
    small, medium = (int((sizes.prod(axis=1) < side**2).sum()) for side in COCO_SIDES)
    total = max(1, len(sizes))
    shares = [small / total, (medium - small) / total, 1 - medium / total]
    words = " - ".join(
        f"{n} {100 * s:.0f} %" for n, s in zip(("small", "medium", "large"), shares, strict=True)
    )
    _heading(draw, frame, "Box sizes", f"{words} (by COCO's areas, dashed); darker: more boxes")
    plot = frame.inner(62, 56, 12, 48)
    if not len(sizes):
        text(draw, (plot.x, plot.y), "no boxes", color=SOFT)
        return
    low = float(np.floor(np.log2(max(1.0, min(16.0, np.percentile(sizes, 0.1))))))
    high = float(np.log2(max(128.0, sizes.max())))
    cells = 64
    logs = np.clip(np.log2(sizes), low, high)
    grid, _, _ = np.histogram2d(logs[:, 1], logs[:, 0], bins=cells, range=((low, high), (low, high)))
    shade = np.log1p(grid) / np.log1p(grid.max())
    paper, ink = np.array(PAPER, np.float64), np.array((8, 48, 107), np.float64)
    shade = np.where(grid > 0, 0.16 + 0.84 * shade, 0)[..., None]
    tile = Image.fromarray((paper + (ink - paper) * shade)[::-1].astype(np.uint8))
    image.paste(tile.resize((plot.width, plot.height), Image.Resampling.NEAREST), (plot.x, plot.y))

    def at(value: float, length: int) -> float:
        return float((np.log2(value) - low) / (high - low) * length)

    for power in range(int(low), int(high) + 1):
        value = 2**power
        x, y = plot.x + at(value, plot.width), plot.y + plot.height - at(value, plot.height)
        draw.line((x, plot.y + plot.height, x, plot.y + plot.height + 5), fill=SOFT)
        draw.line((plot.x - 5, y, plot.x, y), fill=SOFT)
        text(draw, (x, plot.y + plot.height + 8), str(value), anchor="ma", size=13, color=SOFT)
        text(draw, (plot.x - 9, y), str(value), anchor="rm", size=13, color=SOFT)
    for side in COCO_SIDES:
        _dashes(draw, plot, at(side, plot.width) / plot.width)
    draw.rectangle((plot.x, plot.y, plot.x + plot.width, plot.y + plot.height), outline=LINE)
    text(
        draw,
        (plot.x + plot.width / 2, plot.y + plot.height + 28),
        "width in pixels",
        anchor="ma",
        size=14,
        color=SOFT,
    )
    _sideways(image, (frame.x, plot.y + plot.height // 2), "height in pixels")


def _dashes(draw: ImageDraw.ImageDraw, plot: Frame, share: float) -> None:
    """Line of equal area through the square whose side lies at ``share`` of both axes."""
    ends = (
        ((2 * share - 1, 1.0), (1.0, 2 * share - 1)) if share >= 0.5 else ((0.0, 2 * share), (2 * share, 0.0))
    )
    (x1, y1), (x2, y2) = ends
    for k in range(0, 40, 2):
        points = [(x1 + (x2 - x1) * t / 40, y1 + (y2 - y1) * t / 40) for t in (k, k + 1)]
        line = [(plot.x + x * plot.width, plot.y + (1 - y) * plot.height) for x, y in points]
        draw.line(line, fill=(213, 94, 0), width=2)


def _sideways(image: Image.Image, middle_left: tuple[int, int], words: str) -> None:
    """Words that run upwards."""
    width, height = int(font(14).getlength(words)) + 2, 20
    strip = Image.new("RGB", (width, height), PAPER)
    text(ImageDraw.Draw(strip), (1, 1), words, size=14, color=SOFT)
    turned = strip.rotate(90, expand=True)
    image.paste(turned, (middle_left[0], middle_left[1] - width // 2))


def histogram(
    draw: ImageDraw.ImageDraw,
    frame: Frame,
    title: str,
    subtitle: str,
    counts: NDArray[np.int64],
    labels: Sequence[str],
    *,
    axis: str,
) -> None:
    """Vertical bars.

    Args:
        draw: where to.
        frame: place.
        title: heading.
        subtitle: line below it.
        counts: heights of b bars.
        labels: b texts below the bars, '' for none; or b + 1 texts below the edges between bars.
        axis: what the bars stand for.
    """
    _heading(draw, frame, title, subtitle)
    plot = frame.inner(62, 62, 12, 48)
    step = _round_step(int(counts.max(initial=0)))
    largest = step * max(1, -(-int(counts.max(initial=0)) // step))
    pitch = plot.width / max(1, len(counts))
    for value in range(0, largest + 1, step):
        y = plot.y + plot.height * (1 - value / largest)
        draw.line((plot.x, y, plot.x + plot.width, y), fill=LINE)
        text(draw, (plot.x - 9, y), f"{value:,}", anchor="rm", size=13, color=SOFT)
    for i, count in enumerate(counts):
        left, right = plot.x + i * pitch + pitch * 0.08, plot.x + (i + 1) * pitch - pitch * 0.08
        top = plot.y + plot.height * (1 - count / largest)
        if count:
            bottom = plot.y + plot.height - 1
            draw.rectangle((left, min(top, bottom), right, bottom), fill=SET_COLORS[0])
    shift = 0.0 if len(labels) == len(counts) + 1 else 0.5
    for i, label in enumerate(labels):
        x = plot.x + (i + shift) * pitch
        text(draw, (x, plot.y + plot.height + 8), label, anchor="ma", size=13, color=SOFT)
    text(draw, (plot.x + plot.width / 2, plot.y + plot.height + 28), axis, anchor="ma", size=14, color=SOFT)


def _round_step(largest: int) -> int:
    """1, 2 or 5 times a power of ten, so that at most five steps reach ``largest``."""
    steps = (f * int(10**k) for k in range(12) for f in (1, 2, 5))
    return next(step for step in steps if largest <= 5 * step)
