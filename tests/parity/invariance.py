"""Whether a detector's results depend on what else is run: batch sizes, neighbours of other shapes, threads.

``python -m tests.parity.invariance [NAME ...]`` prints one row per golden model: the worst differences of
scores, boxes (pixels) and masks (IoU) between images run one by one and run in batches of 2 and 5, and how
many detections have no partner; then whether the asynchronous results are the same.

The weights are random, so some models have near-ties: boxes whose order or suppression hangs on the last bit
of float32, which the number of rows of a matrix product can move. Where a detection has no partner, the whole
comparison is made again in float64: what is lost then is the batch's doing, and none may be.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import gc
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch

from detector.config import load_config
from detector.inference import async_inference_detector, concurrent, detect, inference_detector
from detector.ops import point_sample
from detector.structures.samples import Detections
from tests.parity.harness import GOLDEN, load, mask_iou, reference_configs

SCORES, BOXES = 1e-5, 1e-3
#: random masks hover around their threshold, where single pixels hang on the last bit
MASKS = 0.95
#: (long, short) side of the network inputs, in pixels
SCALE = (192, 128)
#: (height, width) of the images of one list: landscape, portrait, and a panorama between them
SHAPES = ((96, 128), (128, 96), (96, 128), (64, 160), (128, 96))
STEMS = sorted(path.stem for path in (GOLDEN / "models").glob("*.npz"))


@dataclass
class Spread:
    """Worst differences of one model.

    Attributes:
        scores: of partners.
        boxes: of partners, in pixels.
        masks: smallest IoU of partners.
        lost: detections without a partner.
        total: detections of all comparisons.
    """

    scores: float = 0.0
    boxes: float = 0.0
    masks: float = 1.0
    lost: int = 0
    total: int = 0


def ready(stem: str) -> Any:
    """A golden model for inference, with its config's test pipeline for small images.

    A pipeline that keeps no ratio or pads to squares belongs to a model of one input size: the golden one.
    """
    _, info, model = load(stem)
    config = load_config(reference_configs() / info["config"])
    data = copy.deepcopy(config.data)
    test = data["data"]["test"]
    for step in test["pipeline"]:
        if step["type"] == "MultiScaleFlipAug":
            steps = step["transforms"]
            squared = any(inner.get("pad_to_square") for inner in steps)
            free = any(inner.get("keep_ratio") for inner in steps) and not squared
            step["img_scale"] = SCALE if free else tuple(sorted(info["pad"], reverse=True))
    object.__setattr__(config, "data", data)
    model.cfg = config
    return model.eval()


def images(seed: int = 0) -> list[np.ndarray]:
    """Smooth noise of ``SHAPES``."""
    rng = np.random.default_rng(seed)
    small = [rng.integers(0, 256, (h // 8, w // 8, 3), np.uint8) for h, w in SHAPES]
    return [s.repeat(8, axis=0).repeat(8, axis=1) for s in small]


def partners(a: Detections, b: Detections) -> list[tuple[int, int]]:
    """Pairs of rows with one label, scores and boxes within the limits; each row once, the nearest first."""
    gaps = (a.scores[:, None] - b.scores[None]).abs()
    far = (a.boxes[:, None] - b.boxes[None]).abs().amax(dim=2)
    fits = (gaps <= SCORES) & (far <= BOXES) & (a.labels[:, None] == b.labels[None])
    cost = torch.where(fits, gaps / SCORES + far / BOXES, torch.inf).numpy().copy()
    pairs = []
    for i in range(len(a)):
        j = int(cost[i].argmin()) if len(b) else 0
        if len(b) and np.isfinite(cost[i, j]):
            pairs.append((i, j))
            cost[:, j] = np.inf
    return pairs


def compare(wanted: Detections, found: Detections, worst: Spread) -> None:
    """Add the differences of one image."""
    pairs = partners(wanted, found)
    worst.total += len(wanted)
    worst.lost += max(len(wanted), len(found)) - len(pairs)
    for i, j in pairs:
        worst.scores = max(worst.scores, float((wanted.scores[i] - found.scores[j]).abs()))
        worst.boxes = max(worst.boxes, float((wanted.boxes[i] - found.boxes[j]).abs().max()))
        if wanted.masks is not None and found.masks is not None:
            worst.masks = min(worst.masks, mask_iou(wanted.masks[i], found.masks[j]))


def spread(model: Any, sizes: Sequence[int] = (2, 5)) -> Spread:
    """Differences between batches of one and of ``sizes``."""
    pictures = images()
    alone = [detect(model, [picture])[0] for picture in pictures]
    worst = Spread()
    for size in sizes:
        for wanted, found in zip(alone, detect(model, pictures, batch_size=size), strict=True):
            compare(wanted, found, worst)
    return worst


def spread_exactly(model: Any) -> Spread:
    """The same in float64; the model is changed in place."""
    original = type(model).extract_feat
    model.double().extract_feat = lambda inputs: original(model, inputs.double())
    torch.set_default_dtype(torch.float64)
    sample = point_sample.grid_sample

    def grid_sample(values: torch.Tensor, points: torch.Tensor, **options: Any) -> torch.Tensor:
        return sample(values, points.to(values.dtype), **options)  # detections are float32 throughout

    try:
        with mock.patch.object(point_sample, "grid_sample", grid_sample):
            return spread(model)
    finally:
        torch.set_default_dtype(torch.float32)


def asynchronous(model: Any, pictures: Sequence[Any], slots: int = 3) -> list[Any]:
    """Results of ``async_inference_detector``, several at once."""

    async def one(queue: asyncio.Queue[Any], picture: Any) -> Any:
        async with concurrent(queue):
            return await async_inference_detector(model, picture)

    async def run() -> list[Any]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        for slot in range(slots):
            queue.put_nowait(slot)
        return list(await asyncio.gather(*(one(queue, picture) for picture in pictures)))

    return asyncio.run(run())


def same(a: Any, b: Any) -> bool:
    """Whether two results in MMDetection's form are equal to the bit."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.array_equal(a, b, equal_nan=True)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def async_equals_sync(model: Any) -> bool:
    """Whether three images at once give what they give one by one."""
    pictures = images(1)[1:4]
    return same([inference_detector(model, p) for p in pictures], asynchronous(model, pictures))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of names; all when none is given")
    chosen = [s for s in STEMS if not (n := tuple(parser.parse_args().names)) or s.startswith(n)]
    print(f"{'':62s} {'scores':>8s} {'boxes':>8s} {'masks':>7s} lost  of  in float64  async", flush=True)
    failed = 0
    for stem in chosen:
        start = time.perf_counter()
        try:
            model = ready(stem)
            w, equal = spread(model), async_equals_sync(model)
            again = spread_exactly(model).lost if w.lost else 0
            failed += again > 0 or not equal or w.masks < MASKS
            numbers = f"{w.scores:8.1e} {w.boxes:8.1e} {w.masks:7.4f} {w.lost:4d} {w.total:5d} {again:6d}"
            print(f"{stem[:62]:62s} {numbers} {equal!s:>9s} {time.perf_counter() - start:.0f} s", flush=True)
        except Exception as error:  # a table of many models goes on after one that fails
            failed += 1
            print(f"{stem[:62]:62s} {type(error).__name__}: {str(error)[:200]}", flush=True)
        gc.collect()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
