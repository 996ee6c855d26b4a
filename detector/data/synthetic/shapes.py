"""The eight object families: parts in a unit box (x right, y down), a texture each, and how they vary.

A family is told apart by its silhouette and its texture, and leans to a hue; size, aspect, colour, texture
period and phase, tilt and mirroring vary within it.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Part:
    """One filled polygon of an object.

    Attributes:
        points: (N, 2) corners in the unit box.
        role: which of the object's colours fills it: 'main', 'second', 'dark' or 'light'.
        texture: name of the pattern laid over the colour, see ``pattern``.
    """

    points: Points
    role: str
    texture: str = "flat"


@dataclass(frozen=True)
class Family:
    """One instance class.

    Attributes:
        name: Cityscapes label name.
        height: pixels at scale 1 in an image 192 high.
        aspect: lowest and highest width / height.
        hue: centre of its hues in degrees.
        parts: drawn in order.
    """

    name: str
    height: int
    aspect: tuple[float, float]
    hue: int
    parts: tuple[Part, ...]


def _poly(*corners: tuple[float, float]) -> Points:
    return np.array(corners, dtype=np.float64)


def _rect(x0: float, y0: float, x1: float, y1: float) -> Points:
    return _poly((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def _disc(cx: float, cy: float, rx: float, ry: float, corners: int = 20) -> Points:
    turn = [2 * math.pi * i / corners for i in range(corners)]
    return _poly(*((cx + rx * math.cos(t), cy + ry * math.sin(t)) for t in turn))


def _row(y0: float, y1: float, x0: float, x1: float, count: int, role: str) -> tuple[Part, ...]:
    """Equal windows side by side."""
    pitch = (x1 - x0) / count
    return tuple(Part(_rect(x0 + i * pitch, y0, x0 + (i + 0.72) * pitch, y1), role) for i in range(count))


def _person() -> tuple[Part, ...]:
    return (
        Part(_poly((0.2, 0.55), (0.8, 0.55), (0.9, 1.0), (0.1, 1.0)), "dark", "columns"),
        Part(
            _poly((0.15, 0.22), (0.85, 0.22), (1.0, 0.52), (0.85, 0.64), (0.15, 0.64), (0.0, 0.52)),
            "main",
            "columns",
        ),
        Part(_disc(0.5, 0.13, 0.27, 0.13), "light"),
    )


def _rider() -> tuple[Part, ...]:
    return (
        Part(_poly((0.0, 1.0), (0.05, 0.5), (0.35, 0.22), (0.72, 0.26), (0.7, 1.0)), "main", "checker"),
        Part(_poly((0.55, 0.3), (0.75, 0.3), (1.0, 0.6), (0.92, 0.76), (0.55, 0.6)), "second", "checker"),
        Part(_disc(0.6, 0.14, 0.22, 0.14), "dark"),
    )


def _car() -> tuple[Part, ...]:
    return (
        Part(_poly((0.14, 0.46), (0.3, 0.0), (0.7, 0.0), (0.88, 0.46)), "main"),
        Part(_poly((0.22, 0.42), (0.33, 0.08), (0.48, 0.08), (0.48, 0.42)), "light"),
        Part(_poly((0.53, 0.42), (0.53, 0.08), (0.67, 0.08), (0.79, 0.42)), "light"),
        Part(
            _poly((0.0, 0.5), (0.06, 0.42), (0.94, 0.42), (1.0, 0.55), (1.0, 0.84), (0.0, 0.84)),
            "main",
            "fade",
        ),
        Part(_disc(0.21, 0.84, 0.1, 0.16), "dark"),
        Part(_disc(0.79, 0.84, 0.1, 0.16), "dark"),
    )


def _truck() -> tuple[Part, ...]:
    return (
        Part(_rect(0.0, 0.0, 0.68, 0.86), "main", "rows"),
        Part(
            _poly((0.7, 0.28), (0.88, 0.28), (1.0, 0.56), (1.0, 0.86), (0.66, 0.86), (0.66, 0.28)), "second"
        ),
        Part(_poly((0.75, 0.34), (0.86, 0.34), (0.94, 0.56), (0.75, 0.56)), "light"),
        Part(_disc(0.16, 0.88, 0.08, 0.12), "dark"),
        Part(_disc(0.38, 0.88, 0.08, 0.12), "dark"),
        Part(_disc(0.84, 0.88, 0.08, 0.12), "dark"),
    )


def _bus() -> tuple[Part, ...]:
    body = _poly((0.0, 0.08), (0.06, 0.0), (0.94, 0.0), (1.0, 0.08), (1.0, 0.9), (0.0, 0.9))
    return (
        Part(body, "main"),
        *_row(0.14, 0.44, 0.05, 0.99, 5, "light"),
        Part(_rect(0.0, 0.58, 1.0, 0.68), "dark"),
        Part(_disc(0.2, 0.9, 0.09, 0.1), "dark"),
        Part(_disc(0.8, 0.9, 0.09, 0.1), "dark"),
    )


def _train() -> tuple[Part, ...]:
    body = _poly((0.0, 0.0), (0.84, 0.0), (0.95, 0.35), (1.0, 0.75), (0.98, 1.0), (0.0, 1.0))
    return (
        Part(body, "main", "diagonal"),
        Part(_rect(0.0, 0.2, 0.86, 0.48), "light"),
        *_row(0.22, 0.46, 0.02, 0.86, 7, "dark"),
        Part(_rect(0.0, 0.88, 0.98, 1.0), "dark"),
    )


def _motorcycle() -> tuple[Part, ...]:
    tank = _poly(
        (0.08, 0.4),
        (0.42, 0.32),
        (0.6, 0.0),
        (0.78, 0.04),
        (0.74, 0.3),
        (0.9, 0.66),
        (0.5, 0.92),
        (0.16, 0.7),
    )
    return (
        Part(_disc(0.19, 0.72, 0.19, 0.28), "dark"),
        Part(_disc(0.81, 0.72, 0.19, 0.28), "dark"),
        Part(tank, "main", "diagonal"),
        Part(_disc(0.5, 0.6, 0.12, 0.16), "light"),
    )


def _bicycle() -> tuple[Part, ...]:
    frame = _poly((0.22, 0.7), (0.3, 0.1), (0.46, 0.06), (0.7, 0.0), (0.84, 0.08), (0.8, 0.7), (0.5, 0.78))
    return (
        Part(frame, "main", "checker"),
        *(Part(_disc(x, 0.66, 0.25, 0.34), "dark") for x in (0.25, 0.75)),
        *(Part(_disc(x, 0.66, 0.19, 0.26), "light", "checker") for x in (0.25, 0.75)),
        *(Part(_disc(x, 0.66, 0.06, 0.08), "main") for x in (0.25, 0.75)),
    )


FAMILIES: tuple[Family, ...] = (
    Family("person", 108, (0.36, 0.46), 0, _person()),
    Family("rider", 84, (0.62, 0.8), 52, _rider()),
    Family("car", 60, (1.85, 2.25), 218, _car()),
    Family("truck", 82, (1.45, 1.8), 120, _truck()),
    Family("bus", 84, (1.35, 1.7), 28, _bus()),
    Family("train", 52, (2.6, 3.2), 282, _train()),
    Family("motorcycle", 64, (1.3, 1.6), 325, _motorcycle()),
    Family("bicycle", 62, (1.4, 1.7), 178, _bicycle()),
)


def bgr(hue: float, saturation: float, value: float) -> Colour:
    """Colour from hue in degrees and saturation, value in [0, 1]."""
    red, green, blue = colorsys.hsv_to_rgb((hue % 360) / 360, saturation, value)
    return round(blue * 255), round(green * 255), round(red * 255)


def pattern(
    texture: str, rows: NDArray[np.int64], cols: NDArray[np.int64], period: int, phase: int
) -> NDArray[np.int64]:
    """Brightness offset of a texture in 1/256, from integer pixel coordinates relative to the object.

    Shapes: rows (h, 1), cols (1, w); result (h, w) or broadcastable to it.
    """
    if texture == "columns":
        return (((cols + phase) // period) & 1) * 110 - 55
    if texture == "rows":
        return (((rows + phase) // period) & 1) * 110 - 55
    if texture == "diagonal":
        return ((((rows + cols + phase) // period) & 1) * 120) - 60
    if texture == "checker":
        return (((((rows + phase) // period) + ((cols + phase) // period)) & 1) * 130) - 65
    if texture == "fade":
        return 40 - (rows * 120) // max(8 * period, 1)
    return np.zeros((1, 1), np.int64)


@dataclass(frozen=True)
class Look:
    """The random choices of one object besides its place.

    Attributes:
        colours: BGR of each role.
        period, phase: of its texture, in pixels.
        mirrored: left and right swapped.
        tilt: degrees, clockwise on screen.
    """

    colours: dict[str, Colour]
    period: int
    phase: int
    mirrored: bool
    tilt: float


def draw_look(rng: np.random.Generator, family: Family, height_px: float) -> Look:
    """Random look of one object ``height_px`` high; one in nine has a hue that is not its family's."""
    hue = family.hue + (float(rng.random()) - 0.5) * 44
    if rng.random() < 0.11:
        hue = float(rng.random()) * 360
    saturation, value = 0.55 + 0.4 * float(rng.random()), 0.6 + 0.35 * float(rng.random())
    grey = float(rng.random())
    colours = {
        "main": bgr(hue, saturation, value),
        "second": bgr(hue + 40 * (float(rng.random()) - 0.5), saturation * 0.8, value * 0.7),
        "dark": bgr(hue, 0.25, 0.12 + 0.16 * grey),
        "light": bgr(hue + 180, 0.12, 0.72 + 0.24 * grey),
    }
    period = max(2, round(height_px * (0.07 + 0.06 * float(rng.random()))))
    tilt = (float(rng.random()) - 0.5) * 12
    return Look(colours, period, int(rng.integers(0, 64)), bool(rng.random() < 0.5), tilt)


def place(points: Points, *, box: tuple[float, float, float, float], look: Look) -> NDArray[np.int32]:
    """Corners of a part in image pixels.

    Args:
        points: (N, 2) in the unit box.
        box: left, top, width, height in pixels.
        look: gives mirroring and tilt (about the middle of the box's lower edge).
    """
    left, top, width, height = box
    x = (1 - points[:, 0] if look.mirrored else points[:, 0]) * width - width / 2
    y = (points[:, 1] - 1) * height
    cos, sin = math.cos(math.radians(look.tilt)), math.sin(math.radians(look.tilt))
    turned = np.stack([x * cos - y * sin + left + width / 2, x * sin + y * cos + top + height], axis=1)
    return np.floor(turned + 0.5).astype(np.int32)
