"""Stored proposals: the regions that Fast R-CNN classifies, one array per image of the annotation file.

Shapes: n images, p proposals of one image.
Boxes: xyxy pixels of the original image, best first; a fifth column holds scores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.errors import DatasetError
from detector.evaluation.pickles import ResultUnpickler, unwrap


class StoredProposals:
    """The boxes of all images in one array, which worker processes share without copying.

    Args:
        path: a pickle of a list with a (p, 4) or (p, 5) array per image, as ``detector test --out`` of a
            proposal model and MMDetection write it; nothing in it is executed.
        count: number of images of the annotation file.

    Raises:
        DatasetError: the file is missing, damaged, holds something else or another number of images.
    """

    def __init__(self, path: Path, count: int) -> None:
        entries = _read(path)
        if len(entries) != count:
            raise DatasetError(
                f"{path}: found proposals of {len(entries)} images, expected {count}, one for each image of "
                "the annotation file in its order. Make them with the same annotation file "
                "(detector test CONFIG CHECKPOINT --out FILE with a proposal model)."
            )
        boxes = [_boxes(entry, f"{path}: image {i + 1} of {count}") for i, entry in enumerate(entries)]
        self.boxes = np.concatenate([np.zeros((0, 4), np.float32), *boxes])
        self.offsets = np.cumsum([0, *(len(b) for b in boxes)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> NDArray[np.float32]:
        """(p, 4) boxes of the i-th image of the annotation file."""
        found: NDArray[np.float32] = self.boxes[self.offsets[i] : self.offsets[i + 1]]
        return found


def _read(path: Path) -> list[Any]:
    try:
        with path.open("rb") as stream:
            content = unwrap(ResultUnpickler(stream).load())
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be opened ({error.strerror or error}), expected a proposal file. Correct "
            "proposal_file, or write one with detector test CONFIG CHECKPOINT --out FILE of a proposal model."
        ) from error
    except Exception as error:  # a damaged pickle raises almost anything
        raise DatasetError(
            f"{path}: found a file that is not a pickle of arrays ({error}), expected a proposal file."
        ) from error
    if not isinstance(content, list):
        raise DatasetError(
            f"{path}: found {type(content).__name__}, expected a list with an array of proposals per image."
        )
    return content


def _boxes(entry: Any, where: str) -> NDArray[np.float32]:
    """(p, 4) boxes of one image; results of a proposal model hold its array in a list of one class."""
    if isinstance(entry, list) and len(entry) == 1:
        entry = entry[0]
    if not isinstance(entry, np.ndarray) or entry.ndim != 2 or entry.shape[1] not in (4, 5):
        shape = getattr(entry, "shape", None)
        found = type(entry).__name__ if shape is None else f"an array of shape {shape}"
        raise DatasetError(
            f"{where}: found {found}, expected an array of (p, 4) boxes or (p, 5) with scores."
        )
    boxes = entry[:, :4].astype(np.float32)
    if not np.isfinite(boxes).all():
        raise DatasetError(f"{where}: found NaN or infinite numbers, expected finite boxes.")
    return boxes
