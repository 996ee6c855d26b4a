"""Pictures that hold numbers instead of colours: instance, label and panoptic maps as PNG files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.whole_files import replacing


def read_map(path: Path, *, channels: int = 1) -> NDArray[Any]:
    """Pixels of a PNG, uint8 or uint16: (H, W), or (H, W, 3) RGB.

    The checksums are compared before anything is decoded, since no decoder at hand does both fast and fully.

    Args:
        path: the file.
        channels: 1, or 3 for RGB.

    Raises:
        ValueError: the file is damaged or has another number of channels; says which.
        OSError: it cannot be opened.
    """
    from PIL import Image

    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.verify()
    except (OSError, SyntaxError) as error:
        raise ValueError(f"cannot be read ({error})") from error
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("cannot be read (the image file is truncated or damaged)")
    found = 1 if pixels.ndim == 2 else pixels.shape[2]
    if found != channels:
        raise ValueError(f"has {found} channels, expected {channels}")
    return np.asarray(pixels if channels == 1 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


def write_map(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write a (H, W) map of 8 bits losslessly, so that it appears whole; its folder is made."""
    _, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 6])
    with replacing(path) as file:
        file.write(data.tobytes())
