"""Pictures of a data set's results, in a folder or in a window: ``detector test --show --show-dir``."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from detector.engine.joined_split import TestData
from detector.errors import ConfigError
from detector.inference import window
from detector.inference.images import read_picture
from detector.inference.showing import SHOWN
from detector.structures.samples import Detections
from detector.visualize import draw_detections, write_image

logger = logging.getLogger(__name__)


class DatasetDrawer:
    """Draws results image by image, as a test goes on.

    Args:
        dataset: gives images, class names and colours.
        folder: for the pictures, named by ``drawing_paths``; None writes none.
        score_thr: detections with a higher score are drawn.
        show: open a window for each image, which stays until a key is pressed; Esc, q or Q closes it for
            good.

    Raises:
        ConfigError: a drawing would replace an image of the data set.
    """

    def __init__(
        self, dataset: TestData, folder: Path | None, *, score_thr: float = 0.3, show: bool = False
    ) -> None:
        self.dataset, self.folder, self.score_thr, self.show = dataset, folder, score_thr, show
        paths: Sequence[Path | None] = [None] * len(dataset)
        if folder is not None:
            paths = drawing_paths(dataset, folder)
        self._places = {dataset.image_info(i)["id"]: (i, paths[i]) for i in range(len(dataset))}
        self.written: list[Path] = []

    def __call__(self, image_id: int | str, detections: Detections) -> None:
        """Draw one image.

        Raises:
            DatasetError: the image cannot be read, or the picture cannot be written.
        """
        index, path = self._places[image_id]
        info = self.dataset.image_info(index)
        picture = draw_detections(
            read_picture(self.dataset.img_prefix / info["file_name"]),
            detections,
            self.dataset.class_names,
            palette=self.dataset.palette,
            score_thr=self.score_thr,
        )
        if path is not None:
            self.written.append(write_image(path, picture))
        if self.show:
            self.show = window.show(picture, "detector test", wait_ms=0)


def drawer_of(
    dataset: TestData, folder: Path | None, *, score_thr: float = 0.3, show: bool = False
) -> DatasetDrawer:
    """A drawer that opens windows only where that is possible, and otherwise says which folder it writes to.

    Raises:
        ConfigError: a drawing would replace an image of the data set.
    """
    reason = window.why_no_window() if show else ""
    if reason or (folder is None and not show):
        folder = folder or SHOWN
        if reason:
            logger.warning("--show: %s; the pictures go to the folder %s", reason, folder)
    return DatasetDrawer(dataset, folder, score_thr=score_thr, show=show and not reason)


def draw_results(
    dataset: TestData,
    results: Mapping[int | str, Detections],
    folder: Path,
    *,
    score_thr: float = 0.3,
) -> list[Path]:
    """Draw every image of a data set with its detections into ``folder``.

    Returns:
        the written files, as ``drawing_paths`` names them.

    Raises:
        ConfigError: a drawing would replace an image of the data set.
    """
    drawer = DatasetDrawer(dataset, folder, score_thr=score_thr)
    for i in range(len(dataset)):
        image_id = dataset.image_info(i)["id"]
        drawer(image_id, results[image_id])
    return drawer.written


def drawing_paths(dataset: TestData, folder: Path) -> list[Path]:
    """Where the drawing of each image goes: its path below img_prefix, or its bare name if it lies elsewhere.

    Raises:
        ConfigError: a drawing would replace an image of the data set.
    """
    # '..' is taken out of the text alone: links stay as they are named
    root = Path(os.path.normpath(dataset.img_prefix.absolute()))
    sources = [Path(os.path.normpath(root / dataset.image_info(i)["file_name"])) for i in range(len(dataset))]
    originals = {source.resolve() for source in sources}
    paths: dict[Path, None] = {}
    for i, source in enumerate(sources):
        inside = source.is_relative_to(root)
        path = folder / (source.relative_to(root) if inside else source.name)
        if path in paths:  # two images from elsewhere with one name
            path = path.with_name(f"{path.stem}_{i}{path.suffix}")
        if path.resolve() in originals or (path.exists() and path.samefile(source)):
            raise ConfigError(
                f"--show-dir {folder}: the drawing {path} would replace an image of the data set; expected a "
                "folder outside of the data. Name another one."
            )
        paths[path] = None
    return list(paths)
