"""Pictures of a data set's images with ground truth and detections side by side.

`evaluation = dict(samples=N)` draws N of them at every evaluation of a training, into
``<work_dir>/val_samples/<unit>_<number>``; the pipeline's evaluation draws its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from detector.errors import DatasetError
from detector.structures.masks import from_segmentation
from detector.structures.samples import Detections

if TYPE_CHECKING:
    from detector.engine.joined_split import TestData

DRAWN_FROM = 0.3  # score from which a detection is drawn
FOLDER, DONE = "val_samples", "done"  # DONE: a file that says that all pictures of a folder are whole


def draw_samples(
    dataset: TestData, results: Mapping[int | str, Detections], folder: Path, count: int
) -> list[Path]:
    """Pictures of ground truth and predictions for images spread evenly over the split; the folder is new.

    Raises:
        DatasetError: an image cannot be read, or the place is not writable.
    """
    import cv2

    from detector.visualize import side_by_side

    shutil.rmtree(folder, ignore_errors=True)
    written: list[Path] = []
    for index in spread(len(dataset), count):
        info = dataset.image_info(index)
        source = Path(dataset.img_prefix) / info["file_name"]
        image = cv2.imread(str(source))
        if image is None:
            raise DatasetError(
                f"{source}: not readable as an image; expected one to draw on. Restore the file."
            )
        path = folder / f"{source.stem}.png"
        if path in written:  # of another data set
            path = folder / f"{source.stem}_{index}.png"
        side_by_side(
            image, ground_truth(dataset, index), results[info["id"]], dataset.class_names,
            palette=dataset.palette, score_thr=DRAWN_FROM, out_file=path,
        )  # fmt: skip
        written.append(path)
    return written


def draw_evaluation(
    dataset: TestData,
    results: Mapping[int | str, Detections],
    work_dir: Path,
    name: str,
    count: int,
    note: Callable[[str], None],
) -> None:
    """Draw ``count`` pictures of an evaluation into a folder of its own; a failure is no reason to stop."""
    folder = work_dir / FOLDER / name
    try:
        draw_samples(dataset, results, folder, count)
        (folder / DONE).touch()
    except Exception as error:
        note(f"{folder}: the pictures were not drawn: {type(error).__name__}: {error}")


def spread(length: int, count: int) -> list[int]:
    """At most ``count`` different positions spread evenly over ``length``, first and last included."""
    if length <= count:
        return list(range(length))
    return [round(position * (length - 1) / max(1, count - 1)) for position in range(count)]


def ground_truth(dataset: TestData, index: int) -> Detections:
    """What the annotations say about an image, as detections of score 1."""
    found = dataset.annotations(index)
    masks = [from_segmentation(item, found.image_hw) for item in found.segmentations]
    boxes = torch.from_numpy(found.boxes)
    labels = torch.from_numpy(found.labels)
    return Detections(boxes=boxes, scores=torch.ones(len(boxes)), labels=labels, masks=masks or None)
