"""How fast a model detects, from image files to results: frames per second, latencies, memory, stages."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import psutil
import torch
from torch import nn

from detector.data.collate import collate_views
from detector.engine.predicting import predict_images
from detector.errors import ConfigError
from detector.inference.images import Image, read_picture
from detector.inference.prediction import View, padded, test_pipeline, views_of
from detector.inference.sources import find_images
from detector.inference.stages import STAGES, Stopwatch

PERCENTILES = (50, 90, 99)
#: size (height, width) and number of the images that are made where none are given
MADE_HW, MADE = (480, 640), 4


@dataclass(frozen=True)
class Speed:
    """What ``measure`` found.

    Attributes:
        device: its name.
        threads: of torch, on the CPU.
        images: image files.
        batch_size: most images of a batch.
        passes: timed passes over the images.
        inputs: sizes 'height x width' of the network inputs.
        fps: images per second from file to result, one batch after the other.
        latency_ms: p50, p90, p99 and mean of a batch, from file to result.
        stages_ms: mean per image of each stage.
        memory_mb: 'model' parameters and buffers, 'peak_rss' of the process and, on a GPU, 'peak_vram'.
        detections: mean per image.
    """

    device: str
    threads: int
    images: int
    batch_size: int
    passes: int
    inputs: list[str]
    fps: float
    latency_ms: dict[str, float]
    stages_ms: dict[str, float]
    memory_mb: dict[str, float]
    detections: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, numbers to three places."""
        return cast(dict[str, Any], _rounded(asdict(self)))


def measure(
    model: nn.Module, *, images: str | Path | None = None, batch_size: int = 1, repeat: int = 10
) -> Speed:
    """Time a model on image files, one batch after the other, without reading ahead.

    Args:
        model: from ``init_detector``.
        images: a file, a folder or a pattern; None makes ``MADE`` images of ``MADE_HW``.
        batch_size: images per forward pass; only images of one padded size share one.
        repeat: passes over the images that count, after one that does not.

    Raises:
        ConfigError: a number is not positive.
        DatasetError: there are no images, or one cannot be read.
    """
    for name, value in (("--batch-size", batch_size), ("--repeat", repeat)):
        if value < 1:
            raise ConfigError(f"{name}: found {value}; expected a positive number.")
    with tempfile.TemporaryDirectory() as folder:
        files = find_images(images) if images is not None else make_images(Path(folder))
        return _measure(model, files, batch_size, repeat)


def use_threads(count: int | None) -> None:
    """Let torch use so many threads on the CPU; None leaves its own choice.

    Raises:
        ConfigError: not a positive number.
    """
    if count is not None and count < 1:
        raise ConfigError(f"--threads: found {count}; expected a positive number.")
    if count is not None:
        torch.set_num_threads(count)


def make_images(folder: Path) -> list[Path]:
    """JPEG files of smooth noise, which decode about as fast as photographs."""
    rng, paths = np.random.default_rng(0), []
    for i in range(MADE):
        coarse = rng.integers(0, 256, (MADE_HW[0] // 16, MADE_HW[1] // 16, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, MADE_HW[::-1], interpolation=cv2.INTER_CUBIC)
        grain = rng.integers(0, 24, smooth.shape, dtype=np.uint8)
        paths.append(folder / f"{i}.jpg")
        cv2.imwrite(str(paths[-1]), cv2.add(smooth, grain))
    return paths


def _measure(model: nn.Module, files: Sequence[Path], batch_size: int, repeat: int) -> Speed:
    runner = _Runner(model)
    by_size: dict[Any, list[Path]] = {}
    for path in files:
        by_size.setdefault(runner.input_sizes(path), []).append(path)
    batches = [part for group in by_size.values() for part in _chunks(group, batch_size)]
    for batch in batches:  # not counted: caches fill, the device warms up
        runner.detect(batch)
    if runner.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(runner.device)
    runner.restart()
    latencies = np.array([runner.detect(batch) for _ in range(repeat) for batch in batches]) * 1e3
    total = repeat * len(files)
    return Speed(
        device=_device_name(runner.device),
        threads=torch.get_num_threads(),
        images=len(files),
        batch_size=batch_size,
        passes=repeat,
        inputs=sorted({f"{height} x {width}" for sizes in by_size for height, width in sizes}),
        fps=total / (latencies.sum() / 1e3),
        latency_ms={f"p{p}": float(np.percentile(latencies, p)) for p in PERCENTILES}
        | {"mean": float(latencies.mean())},
        stages_ms={stage: runner.clock.seconds[stage] * 1e3 / total for stage in STAGES},
        memory_mb=_memory(model, runner.device),
        detections=runner.found / total,
    )


class _Runner:
    """Runs batches of image files and keeps the time of every stage."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.steps = model, test_pipeline(cast(Any, model).cfg)
        self.multiple = int(getattr(model, "input_multiple", 1))
        self.device = next(model.parameters()).device
        self.restart()

    def restart(self) -> None:
        """Set the clock and the count of detections to zero."""
        self.clock, self.found = Stopwatch(self.device), 0

    def input_sizes(self, path: Path) -> tuple[tuple[int, int], ...]:
        """(height, width) of every view of an image, as the network sees it."""
        return tuple((int(v.shape[-2]), int(v.shape[-1])) for v, _ in self._views(read_picture(path)))

    def _views(self, image: Image) -> list[View]:
        views = views_of(self.steps, image, np.random.default_rng(0))
        return [padded(view, self.multiple) for view in views]

    @torch.inference_mode()
    def detect(self, paths: Sequence[Path]) -> float:
        """Seconds that a batch took."""
        clock, begin = self.clock, self.clock.now()
        with clock.measured("decode"):
            pictures = [read_picture(path) for path in paths]
        with clock.measured("preprocess"):
            views = [self._views(picture) for picture in pictures]
            batches = [batch.to(self.device) for batch in collate_views([[*own] for own in views])]
        with clock.watching():
            found = [detections.cpu() for detections in predict_images(self.model, batches)]
        self.found += sum(map(len, found))
        return clock.now() - begin


def _chunks(items: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    """Parts of ``size`` items, the last one shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _memory(model: nn.Module, device: torch.device) -> dict[str, float]:
    """Megabytes (10^6 bytes) of the weights, and the peaks of process and GPU."""
    tensors = [*model.parameters(), *model.buffers()]
    weights = sum(t.numel() * t.element_size() for t in tensors)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {"model": weights / 1e6, "peak_rss": max(peak, psutil.Process().memory_info().rss) / 1e6}
    if device.type == "cuda":
        found["peak_vram"] = torch.cuda.max_memory_allocated(device) / 1e6
    return found


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 3) if isinstance(value, float) else value


def as_table(speed: Speed) -> list[str]:
    """Lines for a terminal."""
    device = f"{speed.device}, {speed.threads} threads" if speed.device == "cpu" else speed.device
    latency = "  ".join(f"{key} {value:.1f}" for key, value in speed.latency_ms.items())
    memory = "  ".join(f"{key} {value:.0f} MB" for key, value in speed.memory_mb.items())
    whole = sum(speed.stages_ms.values())
    lines = [
        f"device     {device}",
        f"input      {', '.join(speed.inputs)}  ({speed.images} images, batches of up to {speed.batch_size}, "
        f"{speed.passes} passes)",
        f"speed      {speed.fps:.2f} images/s",
        f"latency    {latency}  ms per batch, from file to result",
        f"memory     {memory}",
        f"found      {speed.detections:.1f} detections per image",
        "",
        "stage            ms/image       %",
    ]
    lines += [
        f"{stage:<14}{value:>11.2f}{100 * value / whole:>8.1f}" for stage, value in speed.stages_ms.items()
    ]
    return lines
