"""Drawing detections on images: boxes, masks with contours, and labels that can be read.

Shapes: images are (H, W, 3) uint8 in BGR order, as OpenCV reads them; drawing returns a new image.
Boxes: xyxy, absolute pixels of the image that is drawn on. Palettes are RGB, one colour per class, as data
sets give them.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.errors import DatasetError
from detector.structures import masks
from detector.structures.samples import Detections

Image = NDArray[np.uint8]
Color = tuple[int, int, int]
Rect = tuple[int, int, int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_MASK_ALPHA = 0.45
_LEGIBLE_SIDE = 640
_WHITE, _BLACK, _DARK = (255, 255, 255), (0, 0, 0), (32, 32, 32)


@dataclass(frozen=True)
class _Style:
    """Sizes in pixels, from the size of the picture."""

    line: int
    font_scale: float
    font_line: int
    pad: int

    @staticmethod
    def of(image: Image) -> _Style:
        """Sizes for one picture."""
        side = float(np.sqrt(image.shape[0] * image.shape[1]))
        font_scale = float(np.clip(side / 1050, 0.4, 1.4))
        return _Style(
            line=1 if side < 320 else max(2, round(side / 400)),
            font_scale=font_scale,
            font_line=max(1, round(font_scale * 1.6)),
            pad=max(2, round(font_scale * 5)),
        )


def draw_detections(
    image_bgr: Image,
    detections: Detections,
    class_names: Sequence[str],
    *,
    palette: Sequence[Color] | None = None,
    score_thr: float = 0.3,
    show_scores: bool = True,
    enlarge: bool = False,
    out_file: str | Path | None = None,
) -> Image:
    """Draw the detections whose score is above (not equal to) a threshold.

    Args:
        image_bgr: the original image.
        detections: boxes and masks in its pixels.
        class_names: name of each label.
        palette: RGB colour of each label; default ``palette_for``.
        score_thr: lower limit, exclusive.
        show_scores: write scores behind the names.
        enlarge: magnify images whose long side is below 640 by a whole factor first, so that labels can be
            read.
        out_file: also write the picture there (png, jpg, by suffix).

    Returns:
        The picture, of the image's size unless enlarged.

    Raises:
        DatasetError: the image is not (H, W, 3) uint8, or the file cannot be written.
    """
    factor = _factor(image_bgr) if enlarge else 1
    canvas = _magnified(image_bgr, factor)
    colors = [_bgr(c) for c in (palette if palette is not None else palette_for(class_names))]
    chosen = np.flatnonzero(detections.scores.detach().cpu().numpy() > score_thr)
    labels = detections.labels.detach().cpu().numpy()[chosen]
    scores = detections.scores.detach().cpu().numpy()[chosen]
    boxes = detections.boxes.detach().cpu().double().numpy()[chosen] * factor
    if detections.masks is not None:
        found = [detections.masks[i] for i in chosen]
        _draw_masks(canvas, [masks.decode(rle) for rle in found], labels, colors)
    style = _Style.of(canvas)
    order = np.argsort(scores, kind="stable")
    for i in order:
        _draw_box(canvas, boxes[i], colors[labels[i] % len(colors)], style)
    taken: list[Rect] = []
    for i in order[::-1]:
        name = class_names[labels[i]] if labels[i] < len(class_names) else f"class {labels[i]}"
        text = f"{name} {scores[i]:.2f}" if show_scores else name
        _draw_tag(canvas, text, boxes[i], colors[labels[i] % len(colors)], style, taken)
    if out_file is not None:
        write_image(out_file, canvas)
    return canvas


def side_by_side(
    image_bgr: Image,
    truth: Detections,
    prediction: Detections,
    class_names: Sequence[str],
    *,
    palette: Sequence[Color] | None = None,
    score_thr: float = 0.3,
    enlarge: bool = True,
    out_file: str | Path | None = None,
) -> Image:
    """Ground truth and prediction of one image with headings, beside or (wide images) above each other.

    Args:
        image_bgr: the original image.
        truth: ground truth in the form of detections with score 1.
        prediction: what the model found.
        class_names: name of each label.
        palette: RGB colour of each label.
        score_thr: lower limit of the predictions' scores, exclusive.
        enlarge: magnify small images, as ``draw_detections``.
        out_file: also write the picture there.
    """
    left = draw_detections(
        image_bgr, truth, class_names, palette=palette, score_thr=-1, show_scores=False, enlarge=enlarge
    )
    right = draw_detections(
        image_bgr, prediction, class_names, palette=palette, score_thr=score_thr, enlarge=enlarge
    )
    count = int((prediction.scores > score_thr).sum())
    panels = [
        _with_heading(left, f"ground truth ({len(truth)})"),
        _with_heading(right, f"prediction ({count}, score > {score_thr:g})"),
    ]
    wide = image_bgr.shape[1] > 1.6 * image_bgr.shape[0]
    gap_shape = (6, panels[0].shape[1], 3) if wide else (panels[0].shape[0], 6, 3)
    gap = np.full(gap_shape, 255, np.uint8)
    picture: Image = np.concatenate([panels[0], gap, panels[1]], axis=0 if wide else 1)
    if out_file is not None:
        write_image(out_file, picture)
    return picture


def palette_for(class_names: Sequence[str]) -> list[Color]:
    """RGB colours: Cityscapes' own for its classes, otherwise evenly spread hues of two brightnesses."""
    from cityscapesscripts.helpers.labels import name2label

    if class_names and all(name in name2label and name2label[name].hasInstances for name in class_names):
        return [tuple(name2label[name].color) for name in class_names]
    colors = []
    for i in range(max(1, len(class_names))):
        hue = (0.02 + i * 0.618034) % 1.0  # golden ratio: neighbours differ most
        rgb = colorsys.hsv_to_rgb(hue, 0.85, (0.95, 0.7)[i // 8 % 2])
        colors.append((round(rgb[0] * 255), round(rgb[1] * 255), round(rgb[2] * 255)))
    return colors


def write_image(path: str | Path, image_bgr: Image) -> Path:
    """Write an image in the format of the suffix; missing folders are made.

    Raises:
        DatasetError: the suffix is unknown or the place is not writable.
    """
    path = Path(path)
    try:
        ok, data = cv2.imencode(path.suffix or ".png", image_bgr)
        if not ok:
            raise OSError("the encoder failed")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.tobytes())
    except (cv2.error, OSError) as error:
        raise DatasetError(
            f"{path}: cannot write the picture ({error}); expected a writable place, .png or .jpg"
        ) from error
    return path


def _factor(image: Image) -> int:
    """Whole factor that brings the long side to at least the legible size."""
    return max(1, -(-_LEGIBLE_SIDE // int(max(image.shape[:2]))))


def _magnified(image: Image, factor: int) -> Image:
    """A contiguous copy, magnified."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DatasetError(
            f"image to draw on: found {image.dtype} {image.shape}, expected uint8 (H, W, 3) in BGR order"
        )
    if factor == 1:
        return np.ascontiguousarray(image).copy()
    larger: Any = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return np.asarray(larger, np.uint8)


def _draw_masks(
    canvas: Image, bitmaps: list[NDArray[np.uint8]], labels: NDArray[Any], colors: list[Color]
) -> None:
    """Translucent areas, large ones first, then all contours; bitmaps are magnified to the canvas."""
    height, width = canvas.shape[:2]
    size = (width, height)
    larger = [
        b if b.shape == canvas.shape[:2] else cv2.resize(b, size, interpolation=cv2.INTER_NEAREST)
        for b in bitmaps
    ]
    order = np.argsort([-int(b.sum()) for b in larger], kind="stable")
    for i in order:
        inside = larger[i].astype(bool)
        color = np.array(colors[labels[i] % len(colors)], np.float32)
        canvas[inside] = (canvas[inside] * (1 - _MASK_ALPHA) + color * _MASK_ALPHA).astype(np.uint8)
    line = max(1, _Style.of(canvas).line - 1)
    for i in order:
        contours, _ = cv2.findContours(
            np.ascontiguousarray(larger[i]), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(canvas, contours, -1, colors[labels[i] % len(colors)], line, cv2.LINE_AA)


def _draw_box(canvas: Image, box: NDArray[Any], color: Color, style: _Style) -> None:
    """A rectangle, dark colours with a light rim; boxes without extent are left out."""
    x1, y1, x2, y2 = _corners(box, canvas)
    if x2 <= x1 and y2 <= y1:
        return
    if _brightness(color) < 90:
        cv2.rectangle(canvas, (x1, y1), (x2, y2), _WHITE, style.line + 2)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), color, style.line)


def _draw_tag(
    canvas: Image, text: str, box: NDArray[Any], color: Color, style: _Style, taken: list[Rect]
) -> None:
    """A filled label at the box, inside the picture, where it covers the least of the labels before it."""
    width, height, below = _text_size(text, style.font_scale, style.font_line)
    size = (width + 2 * style.pad, height + below + style.pad)
    x, y, right, bottom = _place(size, _corners(box, canvas), canvas, taken)
    taken.append((x, y, right, bottom))
    cv2.rectangle(canvas, (x, y), (right - 1, bottom - 1), color, cv2.FILLED)
    cv2.rectangle(canvas, (x, y), (right - 1, bottom - 1), _WHITE, 1)
    ink = _BLACK if _brightness(color) > 140 else _WHITE
    origin = (x + style.pad, y + height + style.pad // 2)
    cv2.putText(canvas, text, origin, _FONT, style.font_scale, ink, style.font_line, cv2.LINE_AA)


def _place(size: tuple[int, int], box: Rect, canvas: Image, taken: list[Rect]) -> Rect:
    """The free place nearest to a corner of the box, or the one with the least overlap."""
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
            covered = sum(_overlap(rect, other) for other in taken)
            if covered == 0:
                return rect
            if best is None or covered < best[0]:
                best = (covered, rect)
    assert best is not None  # there is always a candidate
    return best[1]


def _text_size(text: str, scale: float, line: int) -> tuple[int, int, int]:
    """Width of a text, and the height above and below the base line that every text gets."""
    (_, height), below = cv2.getTextSize("Ag(", _FONT, scale, line)
    return int(cv2.getTextSize(text, _FONT, scale, line)[0][0]), int(height), int(below)


def _overlap(a: Rect, b: Rect) -> int:
    """Shared area of two rectangles in pixels."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _corners(box: NDArray[Any], canvas: Image) -> Rect:
    """Whole-pixel corners cut to the picture."""
    height, width = canvas.shape[:2]
    limits = np.array([width - 1, height - 1, width - 1, height - 1])
    x1, y1, x2, y2 = np.clip(np.nan_to_num(box).round(), 0, limits).astype(int).tolist()
    return x1, y1, x2, y2


def _with_heading(image: Image, text: str) -> Image:
    """The image below a dark strip with a heading."""
    style = _Style.of(image)
    scale = style.font_scale * 1.2
    _, height, below = _text_size(text, scale, style.font_line)
    strip = np.full((height + below + 3 * style.pad, image.shape[1], 3), _DARK, np.uint8)
    origin = (2 * style.pad, height + style.pad + style.pad // 2)
    cv2.putText(strip, text, origin, _FONT, scale, _WHITE, style.font_line, cv2.LINE_AA)
    return np.concatenate([strip, image], axis=0)


def _brightness(bgr: Color) -> float:
    """Perceived brightness, 0 to 255 (Rec. 601)."""
    return 0.114 * bgr[0] + 0.587 * bgr[1] + 0.299 * bgr[2]


def _bgr(rgb: Sequence[int]) -> Color:
    """A palette's colour in OpenCV's order."""
    return int(rgb[2]), int(rgb[1]), int(rgb[0])
