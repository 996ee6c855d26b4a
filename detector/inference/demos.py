"""What ``detector image-demo``, ``video-demo`` and ``webcam-demo`` do.

Source: arguments of MMDetection 2.28.2 demo/image_demo.py, video_demo.py and webcam_demo.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detector.errors import ConfigError
from detector.evaluation.results import from_mmdet
from detector.inference import window
from detector.inference.concurrency import async_inference_detector, concurrent
from detector.inference.model import init_detector
from detector.inference.prediction import detect, detections_of
from detector.inference.read_ahead import read_ahead
from detector.inference.showing import SMALL, show_picture
from detector.inference.sources import Frame, open_source
from detector.inference.video import Video, VideoWriter
from detector.progress import Progress
from detector.structures.samples import Detections
from detector.visualize import draw_detections, named_palette, write_image

#: images at once with ``--async-test``
SLOTS = 3
#: frames that are decoded ahead of the model
AHEAD = 8

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """What a demo did.

    Attributes:
        frames: images run and drawn.
        seconds: for all of them, from the first to the last, without building the model.
        written: files, in order.
        stopped: whether the user ended it before the source did.
    """

    frames: int
    seconds: float
    written: tuple[Path, ...]
    stopped: bool = False

    @property
    def fps(self) -> float:
        """Images per second."""
        return self.frames / self.seconds if self.seconds else 0.0


def load(config: str, checkpoint: str, device: str | None) -> nn.Module:
    """The model of a demo, on a GPU if there is one and no device is named."""
    where = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    return init_detector(config, checkpoint, device=where)


def image_demo(
    images: str,
    config: str,
    checkpoint: str,
    *,
    out_file: str | None = None,
    device: str | None = None,
    palette: str | None = None,
    score_thr: float = 0.3,
    async_test: bool = False,
) -> Summary:
    """Draw the detections of images: into a file, of several images into a folder, or in windows.

    Args:
        images: what ``open_source`` takes, but no video.
        config: of the model.
        checkpoint: of the model.
        out_file: the picture; of several images the folder. None opens windows, or without a display writes
            into the folder 'show'.
        device: see ``load``.
        palette: a data set's colours in place of the model's.
        score_thr: detections with a higher score are drawn.
        async_test: run ``SLOTS`` images at once by ``async_inference_detector``.

    Raises:
        ConfigError: the images make up a video, or a picture would replace its image.
    """
    source = open_source(images)
    if isinstance(source, Video):
        raise ConfigError(f"{images}: found a video, expected images. Use `detector video-demo`.")
    frames = list(source)
    places = _places(frames, out_file)
    model: Any = load(config, checkpoint, device)
    colors = model.PALETTE if palette is None else named_palette(palette, model.CLASSES)
    start, done, stopped, written = time.monotonic(), 0, False, []
    found = _asynchronously(model, frames) if async_test else detections_of(model, frames)
    with Progress(len(frames), "image-demo", enabled=len(frames) > 1) as progress:
        for frame, detections, place in zip(frames, found, places, strict=True):
            image = frame.image()
            picture = draw_detections(
                image,
                detections,
                model.CLASSES,
                palette=colors,
                score_thr=score_thr,
                enlarge=max(image.shape[:2]) < SMALL,
            )
            if place is not None:
                written.append(write_image(place, picture))
            elif not show_picture(picture, name=frame.name):
                stopped = True
                break
            done += 1
            progress.advance()
    return Summary(done, time.monotonic() - start, tuple(written), stopped)


def _places(frames: list[Frame], out_file: str | None) -> list[Path | None]:
    """Where each picture goes; None for a window.

    Raises:
        ConfigError: a picture would replace an image, or two pictures each other.
    """
    if out_file is None:
        return [None] * len(frames)
    out = Path(out_file)
    single = len(frames) == 1 and out.suffix != ""
    places = [out] if single else [out / f"{frame.name}.png" for frame in frames]
    taken: set[Path] = set()
    for i, (frame, place) in enumerate(zip(frames, places, strict=True)):
        if place in taken:
            places[i] = place = place.with_stem(f"{place.stem}_{i}")
        taken.add(place)
        if frame.path is not None and place.exists() and place.samefile(frame.path):
            raise ConfigError(
                f"--out-file {out_file}: would replace the image {frame.path}; expected another place. "
                "Name a new file or folder."
            )
    return list(places)


def _asynchronously(model: nn.Module, frames: list[Frame]) -> list[Detections]:
    """Detections by ``async_inference_detector``, several images at once."""
    device = next(model.parameters()).device

    async def one(queue: asyncio.Queue[Any], frame: Frame) -> Detections:
        async with concurrent(queue):
            return from_mmdet(await async_inference_detector(model, frame))

    async def run() -> list[Detections]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        for slot in range(SLOTS):
            queue.put_nowait(slot if device.type == "cpu" else torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
        return list(await asyncio.gather(*(one(queue, frame) for frame in frames)))

    return asyncio.run(run())


def video_demo(
    video: str,
    config: str,
    checkpoint: str,
    *,
    device: str | None = None,
    score_thr: float = 0.3,
    out: str | None = None,
    show: bool = False,
    wait_ms: int = 1,
    batch_size: int = 1,
) -> Summary:
    """Draw the detections of every frame of a video: into a video of its size and speed, in a window.

    Frames are decoded by a thread ahead of the model. Ctrl-C keeps what was written.

    Args:
        video: file.
        config: of the model.
        checkpoint: of the model.
        device: see ``load``.
        score_thr: detections with a higher score are drawn.
        out: video to write.
        show: open a window; without a display a video is written in its place.
        wait_ms: milliseconds that a frame stays in the window at least; 0 waits for a key.
        batch_size: frames per forward pass.

    Raises:
        ConfigError: neither ``out`` nor ``show``, or the output would replace the video.
        DatasetError: the video cannot be read, or the output not be written.
    """
    if out is None and not show:
        raise ConfigError("arguments: found neither --out nor --show; expected at least one of them.")
    if out is not None and Path(out).exists() and Path(video).exists() and Path(out).samefile(video):
        raise ConfigError(f"--out {out}: would replace the video; expected another file.")
    source = Video(video)
    target, in_window = _target(source, out, show=show, default=Path("show") / f"{Path(video).stem}.mp4")
    with contextlib.ExitStack() as stack:
        writer = _writer(stack, target, source)
        model = load(config, checkpoint, device)
        return _run(
            model, source, writer, in_window=in_window, score_thr=score_thr, wait_ms=wait_ms, batch=batch_size
        )


def webcam_demo(
    config: str,
    checkpoint: str,
    *,
    device: str | None = None,
    camera: int | str = 0,
    score_thr: float = 0.5,
    out: str | None = None,
) -> Summary:
    """Show the detections of a camera's frames until Esc, q or Q is pressed, or Ctrl-C.

    The model takes the newest frame, whatever came between. Without a display a video is written.

    Args:
        config: of the model.
        checkpoint: of the model.
        device: see ``load``.
        camera: its number; or the file or address of a stream.
        score_thr: detections with a higher score are drawn.
        out: also write a video.

    Raises:
        MachineError: no such camera.
    """
    source = Video(camera)
    target, in_window = _target(source, out, show=True, default=Path("show") / "webcam.mp4")
    with contextlib.ExitStack() as stack:
        writer = _writer(stack, target, source)
        model = load(config, checkpoint, device)
        return _run(model, source, writer, in_window=in_window, score_thr=score_thr, wait_ms=1, batch=1)


def _target(source: Video, out: str | None, *, show: bool, default: Path) -> tuple[Path | None, bool]:
    """(video to write, whether a window is opened): without a display the video stands in for the window."""
    reason = window.why_no_window() if show else ""
    if show and reason:
        target = Path(out) if out is not None else default
        logger.warning("show: %s; the pictures of %s go to %s", reason, source.what, target)
        return target, False
    return (Path(out) if out is not None else None), show


def _writer(stack: contextlib.ExitStack, target: Path | None, source: Video) -> VideoWriter | None:
    if target is None:
        return None
    return stack.enter_context(VideoWriter(target, size=source.size, fps=source.fps))


def _run(
    model: Any,
    source: Video,
    writer: VideoWriter | None,
    *,
    in_window: bool,
    score_thr: float,
    wait_ms: int,
    batch: int,
) -> Summary:
    """Detect, draw, write and show frame by frame; Ctrl-C ends it as the end of the source does."""
    start, done, stopped = time.monotonic(), 0, False
    with Progress(source.total, source.what) as progress, contextlib.suppress(KeyboardInterrupt):
        stopped = True
        for frame, detections in _detected(model, source, batch):
            picture = draw_detections(
                frame.image(), detections, model.CLASSES, palette=model.PALETTE, score_thr=score_thr
            )
            if writer is not None:
                writer.write(picture)
            done += 1
            progress.describe(f"{source.what} ({done / (time.monotonic() - start):.1f} fps)")
            progress.advance()
            if in_window and not window.show(picture, source.what, wait_ms=wait_ms):
                break
        else:
            stopped = False
    written = (writer.path,) if writer is not None and done else ()
    return Summary(done, time.monotonic() - start, written, stopped)


def _detected(model: nn.Module, source: Video, batch: int) -> Iterator[tuple[Frame, Detections]]:
    """Frames with their detections; a thread decodes ahead, of a camera it keeps the newest frame only."""
    frames: Iterable[Frame] = read_ahead(source, 1 if source.live else AHEAD, newest=source.live)
    chunk: list[Frame] = []
    for frame in frames:
        chunk.append(frame)
        if len(chunk) == batch:
            yield from zip(chunk, detect(model, chunk, batch_size=batch), strict=True)
            chunk = []
    yield from zip(chunk, detect(model, chunk, batch_size=batch), strict=True)
