"""Pictures of detections.

Shapes: images are (H, W, 3) uint8 in BGR order, as OpenCV reads them; drawing returns a new image.
Boxes: xyxy, absolute pixels of the image that is drawn on. Palettes are RGB, one colour per class, as data
sets give them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.errors import DatasetError
from detector.lineage.carriers import stamped_picture
from detector.structures import masks
from detector.structures.samples import Detections
from detector.visualize.colors import DARK, Color, bgr, brightness, lightened, palette_for
from detector.visualize.labels import Image, Label, Lettering, Rect, draw_labels, put_text

_MASK_ALPHA = 0.45
_LEGIBLE_SIDE = 640
_CROWD = 30  # boxes from which on labels get smaller
_WHITE, _DARK = (255, 255, 255), (32, 32, 32)


@dataclass(frozen=True)
class Look:
    """What a user may set; the rest follows from the size of the picture.

    Attributes:
        boxes: RGB colour of each label's box; one colour serves all.
        masks: of the masks; the boxes' where not given.
        text: one RGB colour of all texts; black or white, whichever can be read, where not given.
        thickness: of lines, in pixels.
        font_size: height of capital letters, in pixels.
    """

    boxes: Sequence[Color] | None = None
    masks: Sequence[Color] | None = None
    text: Color | None = None
    thickness: int | None = None
    font_size: float | None = None


@dataclass(frozen=True)
class _Style:
    """Sizes in pixels, from the size of the picture."""

    line: int
    lettering: Lettering = field(repr=False)

    @staticmethod
    def of(image: Image, look: Look | None = None, count: int = 0) -> _Style:
        """Sizes for one picture with ``count`` labels."""
        side = float(np.sqrt(image.shape[0] * image.shape[1]))
        scale = float(np.clip(side / 1050, 0.4, 2.0))
        if count > _CROWD:
            scale = max(0.4, scale * 0.8)
        if look is not None and look.font_size is not None:
            scale = look.font_size / 22  # capitals of OpenCV's font are 22 pixels high at scale 1
        line = 1 if side < 320 else max(2, round(side / 400))
        thickness = look.thickness if look is not None and look.thickness is not None else line
        return _Style(max(1, int(thickness)), Lettering.of(scale))


def draw_detections(
    image_bgr: Image,
    detections: Detections,
    class_names: Sequence[str],
    *,
    palette: Sequence[Color] | None = None,
    score_thr: float = 0.3,
    show_scores: bool = True,
    enlarge: bool = False,
    look: Look | None = None,
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
        look: colours and sizes that the user set.
        out_file: also write the picture there (png, jpg, by suffix).

    Returns:
        The picture, of the image's size unless enlarged.

    Raises:
        DatasetError: the image is not (H, W, 3) uint8, or the file cannot be written.
    """
    factor = _factor(image_bgr) if enlarge else 1
    canvas = _magnified(image_bgr, factor)
    look = look or Look()
    colors = [bgr(c) for c in (look.boxes or palette or palette_for(class_names))]
    of_masks = [bgr(c) for c in look.masks] if look.masks else colors
    all_scores = detections.scores.detach().cpu().float().numpy()
    chosen = np.flatnonzero(all_scores > score_thr)
    labels = detections.labels.detach().cpu().numpy()[chosen]
    scores = all_scores[chosen]
    boxes = detections.boxes.detach().cpu().double().numpy()[chosen] * factor
    style = _Style.of(canvas, look, len(chosen))
    if detections.masks is not None:
        found = [detections.masks[i] for i in chosen]
        _draw_masks(canvas, [masks.decode(rle) for rle in found], labels, of_masks, style)
        boxes = _with_mask_boxes(boxes, found, factor)
    order = np.argsort(scores, kind="stable")
    for i in order:
        _draw_box(canvas, boxes[i], colors[labels[i] % len(colors)], style)
    tags = []
    for i in order[::-1]:
        name = class_names[labels[i]] if labels[i] < len(class_names) else f"class {labels[i]}"
        color = colors[labels[i] % len(colors)]
        ink = None if look.text is None else bgr(look.text)
        score = f"{scores[i]:.2f}" if show_scores else ""
        tags.append(Label(name, score, _corners(boxes[i], canvas), color, ink))
    draw_labels(canvas, tags, style.lettering)
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


def write_image(path: str | Path, image_bgr: Image) -> Path:
    """Write an image in the format of the suffix, with the current stamp; missing folders are made.

    Raises:
        DatasetError: the suffix is unknown or the place is not writable.
    """
    path = Path(path)
    try:
        ok, data = cv2.imencode(path.suffix or ".png", image_bgr)
        if not ok:
            raise OSError("the encoder failed")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stamped_picture(path, data.tobytes()))
    except (cv2.error, OSError) as error:
        raise DatasetError(
            f"{path}: cannot write the picture ({error}); expected a writable place, .png or .jpg"
        ) from error
    return path


def _factor(image: Image) -> int:
    """Whole factor that brings the long side to at least the legible size."""
    return max(1, -(-_LEGIBLE_SIDE // max(1, int(max(image.shape[:2])))))


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


def _with_mask_boxes(boxes: NDArray[Any], rles: Sequence[Any], factor: int) -> NDArray[Any]:
    """Boxes without extent, as models of masks alone give them, replaced by those around the masks."""
    empty = (boxes[:, 2] <= boxes[:, 0]) & (boxes[:, 3] <= boxes[:, 1])
    if not empty.any():
        return boxes
    around = masks.boxes_xywh(rles) * factor
    around[:, 2:] += around[:, :2]
    return np.where(empty[:, None], around, boxes)


def _draw_masks(
    canvas: Image,
    bitmaps: list[NDArray[np.uint8]],
    labels: NDArray[Any],
    colors: list[Color],
    style: _Style,
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
    line = max(1, style.line - 1)
    for i in order:
        own = colors[labels[i] % len(colors)]
        contours, _ = cv2.findContours(
            np.ascontiguousarray(larger[i]), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        if style.line >= 3 and brightness(own) < DARK:
            cv2.drawContours(canvas, contours, -1, _WHITE, line + 2, cv2.LINE_AA)
        elif style.line < 3:
            own = lightened(own)
        cv2.drawContours(canvas, contours, -1, own, line, cv2.LINE_AA)


def _draw_box(canvas: Image, box: NDArray[Any], color: Color, style: _Style) -> None:
    """A rectangle, dark colours with a light rim, or lightened where lines are thin; none without extent."""
    x1, y1, x2, y2 = _corners(box, canvas)
    if x2 <= x1 and y2 <= y1:
        return
    if style.line >= 2 and brightness(color) < DARK:
        cv2.rectangle(canvas, (x1, y1), (x2, y2), _WHITE, style.line + 2)
    elif style.line < 2:
        color = lightened(color)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), color, style.line)


def _corners(box: NDArray[Any], canvas: Image) -> Rect:
    """Whole-pixel corners cut to the picture."""
    height, width = canvas.shape[:2]
    limits = np.array([width - 1, height - 1, width - 1, height - 1])
    x1, y1, x2, y2 = np.clip(np.nan_to_num(box).round(), 0, limits).astype(int).tolist()
    return x1, y1, x2, y2


def _with_heading(image: Image, text: str) -> Image:
    """The image below a dark strip with a heading."""
    letters = Lettering.of(_Style.of(image).lettering.scale * 1.2)
    _, height, below = letters.size(text)
    strip = np.full((height + below + 3 * letters.pad, image.shape[1], 3), _DARK, np.uint8)
    origin = (2 * letters.pad, height + letters.pad + letters.pad // 2)
    put_text(strip, text, origin, _WHITE, letters)
    return np.concatenate([strip, image], axis=0)
