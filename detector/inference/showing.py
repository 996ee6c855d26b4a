"""``model.show_result``: the picture of a result, in a file, in a window, or returned.

Shapes: images are (H, W, 3) uint8 in BGR order.
Source: arguments of MMDetection 2.28.2 models/detectors/base.py ``show_result``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from detector.errors import ConfigError
from detector.evaluation.results import from_mmdet
from detector.inference import window
from detector.inference.images import Image, read_picture, to_bgr
from detector.inference.sources import Frame
from detector.structures.samples import Detections
from detector.visualize import COLORS, PALETTES, Color, Look, draw_detections, named_palette, write_image

#: where pictures go that no window shows
SHOWN = Path("show")
#: long side below which labels have no room: a picture to look at is magnified
SMALL = 320

ColorLike = str | Sequence[int] | Sequence[Sequence[int]]

logger = logging.getLogger(__name__)


def show_result(
    model: nn.Module,
    img: Any,
    result: Any,
    score_thr: float = 0.3,
    bbox_color: ColorLike | None = None,
    text_color: ColorLike | None = None,
    mask_color: ColorLike | None = None,
    thickness: int | None = None,
    font_size: float | None = None,
    win_name: str = "",
    show: bool = False,
    wait_time: float = 0,
    out_file: str | Path | None = None,
) -> Image:
    """Draw a result.

    Args:
        model: from ``init_detector``; gives names and colours of the classes.
        img: path, BGR array, PIL image or frame that the result is of.
        result: from ``inference_detector`` or ``model.predict``.
        score_thr: detections with a higher score are drawn.
        bbox_color: a colour for all ('green', or RGB as in the reference's pictures), one per class, or a
            palette: 'coco', 'voc', 'citys' or 'random'. By default those of the model's classes.
        text_color: of all labels; by default black or white, whichever can be read.
        mask_color: as ``bbox_color``; by default the same.
        thickness: of lines in pixels; by default from the size of the picture.
        font_size: height of capital letters in pixels; by default from the size of the picture.
        win_name: title of the window.
        show: open a window. Without a display the picture is written to ``out_file``, or into the folder
            'show', and a warning says where.
        wait_time: seconds that the window stays; 0 waits for a key.
        out_file: write the picture there.

    Returns:
        The picture. In a file or a window, an image whose long side is below 320 pixels is magnified.

    Raises:
        ConfigError: an unknown colour.
        DatasetError: the image cannot be read, or the picture cannot be written.
    """
    image = _pixels(img)
    known: Any = model
    found = result if isinstance(result, Detections) else from_mmdet(result)
    ink = _colors(text_color, known.CLASSES, "text_color")
    look = Look(
        boxes=_colors(bbox_color, known.CLASSES, "bbox_color"),
        masks=_colors(mask_color, known.CLASSES, "mask_color"),
        text=ink[0] if ink else None,
        thickness=thickness,
        font_size=font_size,
    )
    picture = draw_detections(
        image,
        found,
        known.CLASSES,
        palette=known.PALETTE,
        score_thr=score_thr,
        look=look,
        enlarge=max(image.shape[:2]) < SMALL and (show or out_file is not None),
    )
    if out_file is not None:
        write_image(out_file, picture)
    if show:
        show_picture(picture, name=win_name or _name(img), wait_ms=round(1000 * wait_time), out_file=out_file)
    return picture


def show_picture(picture: Image, *, name: str, wait_ms: int = 0, out_file: str | Path | None = None) -> bool:
    """Show a picture in a window, or without a display write it and say where.

    Args:
        picture: (H, W, 3) uint8 BGR.
        name: title of the window, and name of the file.
        wait_ms: how long it stays; 0 waits for a key.
        out_file: where it has been written already.

    Returns:
        whether the user wants to go on.
    """
    reason = window.why_no_window()
    if not reason:
        return window.show(picture, name, wait_ms=wait_ms)
    path = Path(out_file) if out_file is not None else write_image(_free(SHOWN / f"{name}.png"), picture)
    logger.warning("show: %s; the picture is in %s", reason, path)
    return True


def _free(path: Path) -> Path:
    """The path, with a number if there is such a file."""
    free, number = path, 1
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}_{number}")
    return free


def _pixels(img: Any) -> Image:
    if isinstance(img, Frame):
        return img.image()
    return read_picture(img) if isinstance(img, str | Path) else to_bgr(img)


def _name(img: Any) -> str:
    if isinstance(img, Frame):
        return img.name
    return Path(img).stem if isinstance(img, str | Path) else "result"


def _colors(given: ColorLike | None, class_names: Sequence[str], what: str) -> list[Color] | None:
    """RGB colours of the classes, or one for all.

    Raises:
        ConfigError: this is no colour.
    """
    if given is None:
        return None
    if isinstance(given, str):
        if given in PALETTES:
            return named_palette(given, class_names)
        if given in COLORS:
            return [COLORS[given]]
    else:
        several = [given] if len(given) and not isinstance(given[0], Sequence) else list(given)
        colors = [tuple(cast(Sequence[int], color)) for color in several]
        if colors and all(len(c) == 3 and all(0 <= int(v) <= 255 for v in c) for c in colors):
            return [(int(r), int(g), int(b)) for r, g, b in colors]
    raise ConfigError(
        f"{what}: found {given!r}; expected one of {', '.join(COLORS)}, three numbers 0 to 255 (red, green, "
        f"blue), such a triple per class, or a palette: {', '.join(PALETTES)}."
    )
