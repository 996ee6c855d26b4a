"""Where images come from: a file, a folder, a pattern, a list on standard input, a video, a camera, memory.

Shapes: images are (H, W, 3) uint8 in BGR order.
"""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from detector.errors import DatasetError
from detector.inference.images import Image, read_picture, to_bgr
from detector.naming import close_names

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".gif", ".avif")
)
VIDEO_SUFFIXES = frozenset(
    (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts")
)


@dataclass(frozen=True)
class Frame:
    """One image of a source.

    Attributes:
        name: file name without its ending, or 'frame_<number from 0>'.
        path: the file; None for an image in memory.
        pixels: (H, W, 3) uint8 BGR; None for a file, which is read when it is needed.
    """

    name: str
    path: Path | None = None
    pixels: Image | None = None

    def image(self) -> Image:
        """The pixels.

        Raises:
            DatasetError: the file cannot be read.
        """
        if self.pixels is not None:
            return self.pixels
        assert self.path is not None, "a frame has a path or pixels"
        return read_picture(self.path)


class Images(Sequence[Frame]):
    """Images by path, or in memory.

    Args:
        items: paths, arrays (BGR) or PIL images.
        what: text for progress.
    """

    def __init__(self, items: Iterable[Any], *, what: str = "images") -> None:
        self.items, self.what = list(items), what

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        """The frame of an index, or a list of frames of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        item = self.items[index]
        if isinstance(item, str | Path):
            return Frame(name=Path(item).stem, path=Path(item))
        return Frame(name=f"frame_{index:06d}", pixels=to_bgr(item, where=f"image {index}"))


def open_source(source: Any, *, stdin: TextIO | None = None) -> Iterable[Frame]:
    """The images of whatever a user gives.

    Args:
        source: an image file, a folder of images, a pattern (``'photos/*.jpg'``, ``**`` for folders below),
            ``'-'`` for a list of files on standard input, one a line, a video file, the number of a camera,
            an array (BGR), a PIL image, or a list or tuple of paths, arrays and PIL images.
        stdin: in place of standard input.

    Returns:
        frames to iterate over; ``len`` works for images, ``fps`` and ``size`` are there for videos.

    Raises:
        DatasetError: there is nothing of that kind.
    """
    from detector.inference.video import Video

    if isinstance(source, int) and not isinstance(source, bool):
        return Video(source)
    if isinstance(source, list | tuple):
        return Images(source)
    if not isinstance(source, str | Path):
        return Images([to_bgr(source)])
    if str(source) == "-":
        return Images(_listed(stdin or sys.stdin), what="standard input")
    if str(source).isdecimal() and not Path(source).exists():
        return Video(int(str(source)))
    if Path(source).suffix.lower() in VIDEO_SUFFIXES and not _is_pattern(source):
        return Video(source)
    return Images(find_images(source), what=str(source))


def find_images(place: str | Path) -> list[Path]:
    """Image files of a path, a folder or a pattern, sorted by name.

    Raises:
        DatasetError: none is there.
    """
    path = Path(place).expanduser()
    if "://" in str(place):
        raise DatasetError(
            f"{place}: found an address, expected files on this machine. Download the image first."
        )
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise DatasetError(
                f"{place}: found no image in this folder, expected files such as .jpg or .png. Images in "
                f"folders below are taken by a pattern: '{path / '**' / '*.jpg'}'."
            )
        return found
    if path.exists():
        return [path]
    if _is_pattern(place):
        matches = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 - pathlib takes no absolute one
        chosen = sorted(p for p in matches if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES)
        if not chosen:
            raise DatasetError(f"{place}: the pattern fits no image file (from {Path.cwd()}). Check it.")
        return chosen
    raise DatasetError(
        f"{place}: found no such file or folder (from {Path.cwd()}), expected an image. {_near(path)}"
    )


def _near(path: Path) -> str:
    """The advice for a path that is not there."""
    folder = path.parent
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    near = close_names(path.name, names, count=2)
    return f"Did you mean {' or '.join(str(folder / name) for name in near)}?" if near else "Check the path."


def _is_pattern(place: str | Path) -> bool:
    return glob.has_magic(str(place)) and not Path(place).exists()


def _listed(stream: TextIO) -> list[Path]:
    """Paths of a list, one a line."""
    paths = [Path(line.strip()) for line in stream if line.strip()]
    if not paths:
        raise DatasetError("standard input: found no line, expected paths of images, one a line.")
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DatasetError(
            f"standard input: {len(missing)} of {len(paths)} lines name no file, the first is {missing[0]} "
            f"(from {Path.cwd()}). Expected a path a line. Check them."
        )
    return paths
