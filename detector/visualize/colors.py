"""Colours of classes. Palettes are RGB, one colour per class, as data sets give them; OpenCV draws in BGR."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

from detector.errors import ConfigError

Color = tuple[int, int, int]

PALETTES = ("coco", "voc", "citys", "random")
#: brightness below which a thin line is hard to see on a photo
DARK = 90.0
#: RGB by name
COLORS: dict[str, Color] = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "cyan": (0, 255, 255),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}


def palette_for(class_names: Sequence[str]) -> list[Color]:
    """RGB colours: Cityscapes' own for its classes, otherwise evenly spread hues of two brightnesses."""
    from cityscapesscripts.helpers.labels import name2label

    if class_names and all(name in name2label and name2label[name].hasInstances for name in class_names):
        return [tuple(name2label[name].color) for name in class_names]
    return spread_colors(len(class_names))


def spread_colors(count: int) -> list[Color]:
    """RGB colours of ``count`` classes (at least one), neighbours far apart."""
    colors = []
    for i in range(max(1, count)):
        hue = (0.02 + i * 0.618034) % 1.0  # golden ratio: neighbours differ most
        rgb = colorsys.hsv_to_rgb(hue, 0.85, (0.95, 0.7)[i // 8 % 2])
        colors.append((round(rgb[0] * 255), round(rgb[1] * 255), round(rgb[2] * 255)))
    return colors


def named_palette(name: str, class_names: Sequence[str]) -> list[Color]:
    """RGB colour of each class in the palette of a data set.

    A class of that data set has its colour there; the others take the palette's colours by their position,
    which is what the reference does for all.

    Args:
        name: one of ``PALETTES``; 'random' means evenly spread hues.
        class_names: the model's classes.

    Raises:
        ConfigError: no such palette.
    """
    from detector.data.datasets.cityscapes import CityscapesDataset
    from detector.data.datasets.coco import CocoDataset
    from detector.data.datasets.voc import VOCDataset

    if name == "random":
        return spread_colors(len(class_names))
    kinds: dict[str, Any] = {"coco": CocoDataset, "voc": VOCDataset, "citys": CityscapesDataset}
    if name not in kinds:
        raise ConfigError(f"palette: found {name!r}; expected one of {', '.join(PALETTES)}.")
    kind = kinds[name]
    colors = list(kind.PALETTE)
    known = dict(zip(kind.CLASSES, colors, strict=False))
    return [known.get(label, colors[i % len(colors)]) for i, label in enumerate(class_names)]


def brightness(bgr: Color) -> float:
    """Perceived brightness, 0 to 255 (Rec. 601)."""
    return 0.114 * bgr[0] + 0.587 * bgr[1] + 0.299 * bgr[2]


def lightened(bgr: Color) -> Color:
    """The colour, mixed with white until it stands out from a dark street."""
    found = brightness(bgr)
    if found >= DARK:
        return bgr
    share = (1.3 * DARK - found) / (255 - found)
    blue, green, red = (round(part + share * (255 - part)) for part in bgr)
    return blue, green, red


def bgr(rgb: Sequence[int]) -> Color:
    """A palette's colour in OpenCV's order."""
    return int(rgb[2]), int(rgb[1]), int(rgb[0])
