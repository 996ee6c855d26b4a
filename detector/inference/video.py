"""Videos and cameras: reading frames, and writing a video of the same size and speed.

Shapes: frames are (H, W, 3) uint8 in BGR order; sizes are (width, height) as OpenCV has them.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from detector.errors import DatasetError, MachineError
from detector.inference.images import Image
from detector.inference.sources import Frame

#: for a source that does not tell its speed
FPS = 25.0
CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "MJPG"}

logger = logging.getLogger(__name__)


class Video:
    """The frames of a video file or a camera; iterate over it once.

    Args:
        source: the file, or the number of the camera.

    Attributes:
        fps: frames per second; ``FPS`` where the source does not tell.
        total: frames that a file says it has; None where it does not.

    Raises:
        DatasetError: no file, or not one that OpenCV decodes.
        MachineError: no such camera.
    """

    def __init__(self, source: str | Path | int) -> None:
        self.source = source
        self.live = isinstance(source, int) or "://" in str(source)
        self.what = f"camera {source}" if isinstance(source, int) else str(source)
        self._check()
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        # a first frame tells the size after rotation, and whether there is anything to decode
        ok, first = self._capture.read() if self._capture.isOpened() else (False, None)
        if not ok or first is None:
            self._capture.release()
            raise self._unreadable()
        self._first: Image = np.asarray(first, np.uint8)
        told = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps = told if math.isfinite(told) and 0 < told <= 1000 else FPS
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.total = count if count > 0 and not self.live else None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frames as they are shown."""
        height, width = self._first.shape[:2]
        return int(width), int(height)

    def __iter__(self) -> Iterator[Frame]:
        """The frames; a file that breaks off early says so."""
        done = 0
        image: Image | None = self._first
        try:
            while image is not None:
                yield Frame(name=f"frame_{done:06d}", pixels=image)
                done += 1
                ok, found = self._capture.read()
                image = np.asarray(found, np.uint8) if ok else None
        finally:
            self._capture.release()
        if self.total is not None and done < self.total:
            logger.warning(
                "%s: %d of %d frames could be read; the file is damaged or counts them wrongly.",
                self.source,
                done,
                self.total,
            )

    def _check(self) -> None:
        if isinstance(self.source, int) or "://" in str(self.source):
            return
        path = Path(self.source)
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no such file"
            raise DatasetError(
                f"{path}: found {found} (from {Path.cwd()}), expected a video file. Check the path."
            )

    def _unreadable(self) -> DatasetError | MachineError:
        if isinstance(self.source, int):
            return MachineError(
                f"camera {self.source}: cannot be opened or gives no frame; expected a camera of that number "
                "(/dev/video<number> on Linux). Connect it, give another --camera-id, or use video-demo on a "
                "file."
            )
        return DatasetError(
            f"{self.source}: found no frame that OpenCV decodes, expected a video (MP4, AVI, MKV ...). Check "
            "that the file is whole, or convert it, for instance with ffmpeg -i IN -c:v libx264 OUT.mp4."
        )


class VideoWriter:
    """Writes frames to a video file, which takes its place when it is closed; a context manager.

    What was written until an error or an interrupt is kept.

    Args:
        path: the file; its ending decides the format: .mp4, .m4v, .mov, .avi or .mkv.
        size: (width, height) of the frames.
        fps: frames per second.

    Raises:
        DatasetError: an unknown ending, or the file cannot be written.
    """

    def __init__(self, path: str | Path, *, size: tuple[int, int], fps: float) -> None:
        self.path, self.size, self.frames = Path(path), size, 0
        codec = CODECS.get(self.path.suffix.lower())
        if codec is None:
            raise DatasetError(
                f"{path}: found the ending {self.path.suffix!r}, expected one of {', '.join(CODECS)}."
            )
        if self.path.is_dir():
            raise DatasetError(f"{path}: found a folder, expected the name of a video file to write.")
        self._temporary = self.path.with_name(f".{self.path.stem}.{os.getpid()}{self.path.suffix}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatasetError(
                f"{path}: cannot be written ({error.strerror}); choose another place."
            ) from error
        self._writer = cv2.VideoWriter(str(self._temporary), cv2.VideoWriter.fourcc(*codec), fps, size)
        if not self._writer.isOpened():
            self._temporary.unlink(missing_ok=True)
            raise DatasetError(
                f"{path}: OpenCV cannot write a {codec} video of {size[0]}x{size[1]} at {fps:g} fps there; "
                "expected a writable place. Choose another place or ending (.avi)."
            )

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, image: Image) -> None:
        """Append a frame of the video's size.

        Raises:
            DatasetError: it has another size, which the file could not hold.
        """
        if (image.shape[1], image.shape[0]) != self.size:
            raise DatasetError(
                f"{self.path}: frame {self.frames} is {image.shape[1]}x{image.shape[0]}, expected "
                f"{self.size[0]}x{self.size[1]} as the first one. Split the video where its size changes."
            )
        self._writer.write(image)
        self.frames += 1

    def close(self) -> None:
        """Finish the file; without a frame nothing is left."""
        self._writer.release()
        if self.frames:
            self._temporary.replace(self.path)
        else:
            self._temporary.unlink(missing_ok=True)
