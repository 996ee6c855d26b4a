"""Does a written file detect what the model detects?

Boxes: xyxy, pixels of the network input.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from detector.errors import ConfigError
from detector.structures.samples import Detections

#: detections whose score differs by more than this or whose box differs by more pixels are not the same
SCORE_TOLERANCE, BOX_TOLERANCE = 1e-3, 0.1
#: share of detections that may differ: rounding turns near-ties of the suppression
MAY_DIFFER = 0.02


@dataclass(frozen=True)
class Agreement:
    """A file's detections beside the model's.

    Attributes:
        own: detections of the model, all images.
        file: detections of the file.
        matched: pairs of one label that agree within the tolerances.
        score: largest difference of the scores of pairs.
        box: largest difference of the corners of pairs, pixels.
    """

    own: int
    file: int
    matched: int
    score: float
    box: float


def run_onnx(path: Path) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """The function of an ONNX file, run by onnxruntime on the CPU."""
    session = import_module("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: tuple(map(torch.from_numpy, session.run(None, {"images": images.numpy()})))


def run_torchscript(path: Path) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """The function of a TorchScript file, run on the CPU."""
    import torchvision  # noqa: F401 - brings the operator nms

    with warnings.catch_warnings():  # that torch advises another format
        warnings.simplefilter("ignore")
        module = cast(Any, torch.jit).load(str(path), map_location="cpu")

    def run(images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(module(images))

    return run


def compare(own: list[Detections], file: list[tuple[Tensor, ...]]) -> Agreement:
    """Pair the detections of each image by label, box and score, the best ones first."""
    matched, score, box = 0, 0.0, 0.0
    for found, (boxes, scores, labels) in zip(own, file, strict=True):
        free = torch.ones(len(scores), dtype=torch.bool)
        for i in range(len(found)):
            gaps = (boxes - found.boxes[i]).abs().amax(dim=1)
            apart = (scores - found.scores[i]).abs()
            fits = free & (labels == found.labels[i]) & (gaps <= BOX_TOLERANCE) & (apart <= SCORE_TOLERANCE)
            if fits.any():
                best = int(torch.where(fits, gaps, torch.inf).argmin())
                free[best] = False
                matched, score, box = matched + 1, max(score, float(apart[best])), max(box, float(gaps[best]))
    counts = sum(map(len, own)), sum(len(scores) for _, scores, _ in file)
    return Agreement(own=counts[0], file=counts[1], matched=matched, score=score, box=box)


def played(run: Callable[[Tensor], tuple[Tensor, ...]], images: list[Tensor]) -> list[tuple[Tensor, ...]]:
    """What a file gives for images.

    Raises:
        ConfigError: it does not run.
    """
    try:
        return [run(image) for image in images]
    except Exception as error:  # each runtime has its own
        last = str(error).strip().splitlines()[-1]
        raise ConfigError(
            f"export: the file was written but does not run: {last[:300]}. It is not kept: this model has "
            "something that its recording does not hold for another image. Try the other --format."
        ) from error


def require(agreement: Agreement) -> Agreement:
    """The agreement, if it is one.

    Raises:
        ConfigError: more detections differ than rounding explains.
    """
    most = max(agreement.own, agreement.file)
    if most - agreement.matched > MAY_DIFFER * most:
        raise ConfigError(
            f"export: the file finds {agreement.file} boxes where the model finds {agreement.own}, and "
            f"{agreement.matched} agree to {SCORE_TOLERANCE} in score and {BOX_TOLERANCE} pixels; expected "
            f"all but {MAY_DIFFER:.0%}. The file is not kept: this model decides something in python that a "
            "recording does not hold."
        )
    return agreement
