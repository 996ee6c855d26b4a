"""One image, however it is given, as the pixels that a pipeline starts from.

Shapes: images are (H, W, 3) uint8 in BGR order.
Source: behaviour checked against mmcv 1.7 image/io.py (colour images, EXIF orientation applied).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.data.transforms.loading import UnreadableImageError, read_image
from detector.errors import DatasetError

Image: TypeAlias = NDArray[np.uint8]

logger = logging.getLogger(__name__)


def read_picture(path: str | Path) -> Image:
    """Pixels of an image file as mmcv reads them: upright by EXIF, without alpha, 16 bits cut to the upper 8.

    Raises:
        DatasetError: there is no such file, or it is no complete image.
    """
    try:
        image = read_image(str(path))
    except UnreadableImageError as error:
        raise DatasetError(why_unreadable(path)) from error
    if not image.any():
        logger.warning(
            "%s: every pixel is black. Of a 16-bit image the upper 8 bits are used: stretch its values to 0 "
            "to 65535 if they use the lower ones only.",
            path,
        )
    return np.asarray(image, np.uint8)


def why_unreadable(path: str | Path) -> str:
    """What keeps a path from being read as an image, and what to do."""
    place = Path(path)
    if place.is_dir():
        return f"{path}: found a folder, expected an image file. `open_source` reads the images of a folder."
    if not place.exists():
        return f"{path}: found no such file, expected an image file (from {Path.cwd()}). Check the path."
    try:
        content = place.read_bytes()
    except OSError as error:
        return f"{path}: cannot be opened ({error.strerror or error}), expected a readable image file."
    if not content:
        return f"{path}: found an empty file, expected an image. Copy or download it again."
    return (
        f"{path}: found {len(content)} bytes that start with {content[:4].hex(' ')} and are no whole image, "
        f"expected a complete file of a format that OpenCV decodes (JPEG, PNG, WebP, TIFF, BMP ...). "
        f"{_advice(content)}"
    )


def _advice(content: bytes) -> str:
    """What to do about a file that is not decoded, by its first bytes."""
    if content.startswith((b"\xff\xd8", b"\x89PNG", b"RIFF", b"II*\0", b"MM\0*", b"BM", b"GIF8")):
        return "It looks cut off: copy or download it again."
    if content[4:8] == b"ftyp" or content[:4] == b"\x1aE\xdf\xa3":
        return "It looks like a video or a HEIF photo: `detector video-demo` takes videos; convert photos."
    return "Convert it, or check what the file is."


def to_bgr(image: Any, *, where: str = "image") -> Image:
    """Pixels of an array or a PIL image.

    Args:
        image: a PIL image of any mode (turned upright by its EXIF tag), or an array: (H, W, 3) BGR, (H, W) or
            (H, W, 1) grey, (H, W, 4) BGRA, whose alpha is dropped; uint8, or uint16, of which the upper 8
            bits are used.
        where: what an error calls it.

    Returns:
        (H, W, 3) uint8; the array itself where it is that already.

    Raises:
        DatasetError: another type, shape or range of values.
    """
    from PIL import Image as Pillow

    if isinstance(image, Pillow.Image):
        image = _from_pil(image, where)
    if not isinstance(image, np.ndarray):
        raise DatasetError(
            f"{where}: found a {type(image).__module__}.{type(image).__name__}, expected a path, a (H, W, 3) "
            "uint8 array in BGR order, or a PIL image. Convert it, a tensor for instance by "
            "tensor.permute(1, 2, 0).numpy()."
        )
    pixels = _eight_bits(image, where)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if 0 in pixels.shape or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise DatasetError(
            f"{where}: found an array of shape {image.shape}, expected (H, W, 3) BGR, (H, W) grey or (H, W, "
            f"4) BGRA with at least one pixel.{_shape_advice(image.shape)}"
        )
    if pixels.ndim == 2:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR), np.uint8)
    return pixels if pixels.shape[2] == 3 else np.ascontiguousarray(pixels[..., :3])


def _shape_advice(shape: tuple[int, ...]) -> str:
    """A hint for two frequent mistakes."""
    if len(shape) == 4:
        return " Give several images as a list."
    if len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] > 4:
        return " Channels come last: image.transpose(1, 2, 0)."
    return ""


def _eight_bits(image: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Values as uint8."""
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        if image.size and int(image.max()) < 256:
            raise DatasetError(
                f"{where}: found 16-bit values of at most {int(image.max())}, expected them to use the range "
                "0 to 65535, as the upper 8 bits are used. Give image.astype('uint8')."
            )
        return (image >> 8).astype(np.uint8)
    raise DatasetError(
        f"{where}: found an array of {image.dtype}, expected uint8 values 0 to 255 (or uint16). Scale and "
        "convert it, for instance (255 * image).astype('uint8') for values from 0 to 1."
    )


def _from_pil(image: Any, where: str) -> NDArray[Any]:
    """(H, W, 3) uint8 BGR, or (H, W) uint16 of a 16-bit image."""
    from PIL import ImageOps

    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            return np.asarray(upright).astype(np.uint16)
        if upright.mode in ("I", "F"):
            raise DatasetError(
                f"{where}: found a PIL image of mode {upright.mode!r}, expected 8-bit values. Scale it to 0 "
                "to 255 and convert it to mode 'L'."
            )
        rgb = np.asarray(upright.convert("RGB"))
    except OSError as error:  # files are decoded when their pixels are asked for
        raise DatasetError(
            f"{where}: found a PIL image that cannot be decoded ({error}), expected a complete one. Copy or "
            "download it again."
        ) from error
    return np.ascontiguousarray(rgb[..., ::-1])
