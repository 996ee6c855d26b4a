"""Export a model, check the file, and only then put it in its place."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from detector.errors import ConfigError
from detector.export.checking import Agreement, compare, played, require, run_onnx, run_torchscript
from detector.export.network import BoxNetwork, example_input, prepared
from detector.export.writing import require_packages, write_onnx, write_torchscript
from detector.inference.prediction import test_pipeline, views_of

SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt"}
_PHOTO_HW = (480, 640)


@dataclass(frozen=True)
class Exported:
    """A written file.

    Attributes:
        path: the file.
        input_hw: (H, W) of its input (1, 3, H, W).
        agreement: with the model on two images.
    """

    path: Path
    input_hw: tuple[int, int]
    agreement: Agreement


def export_model(
    model: nn.Module,
    form: str,
    *,
    out: str | Path | None = None,
    shape: tuple[int, int] | None = None,
    boxes_only: bool = False,
) -> Exported:
    """Write a model for one image of a fixed size, and compare the file with the model on two made images.

    The file takes 'images' (1, 3, H, W) float32, normalised as the config's test pipeline does, and gives
    boxes (N, 4) xyxy in pixels of that input, scores (N,) and labels (N,).

    Args:
        model: from ``init_detector``, on the CPU.
        form: 'onnx' or 'torchscript'.
        out: file; None names it after the config, in this folder.
        shape: (H, W); None takes what the test pipeline makes of a 640 x 480 image.
        boxes_only: leave a mask head out.

    Raises:
        ConfigError: the model, the format or the shape cannot be exported.
        MachineError: packages are missing.
    """
    require_packages(form) if form in SUFFIXES else None
    network_model = prepared(model, form, boxes_only=boxes_only)
    config = cast(Any, model).cfg
    hw = checked_shape(shape) if shape is not None else default_shape(model)
    network = BoxNetwork(network_model, hw).eval()
    path = Path(out) if out is not None else Path(Path(str(config.path)).stem + SUFFIXES[form])
    notes = {"classes": list(cast(Any, model).CLASSES), "input_hw": hw, "normalise": normalisation(config)}
    images = [example_input(hw, seed) for seed in (0, 1)]
    with torch.no_grad():
        own = [network.detect(image) for image in images]
    write, load = (write_onnx, run_onnx) if form == "onnx" else (write_torchscript, run_torchscript)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        written = Path(folder) / path.name
        write(network, images[0], written, notes)
        run = load(written)
        agreement = require(compare(own, played(run, images)))
        written.replace(path)
    return Exported(path=path, input_hw=hw, agreement=agreement)


def checked_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """The shape, if a network takes it.

    Raises:
        ConfigError: a side is not a positive multiple of 32.
    """
    if any(side < 32 or side % 32 for side in shape):
        raise ConfigError(
            f"--shape: found {shape[0]} {shape[1]}; expected height and width, multiples of 32."
        )
    return shape


def default_shape(model: nn.Module) -> tuple[int, int]:
    """(H, W) that the config's test pipeline makes of a 640 x 480 image."""
    steps = test_pipeline(cast(Any, model).cfg)
    image = np.zeros((*_PHOTO_HW, 3), np.uint8)
    views = views_of(steps, image, np.random.default_rng(0))
    height, width = views[0][0].shape[-2:]
    return int(height), int(width)


def normalisation(config: Any) -> dict[str, Any] | None:
    """Mean, std and channel order of the config's test pipeline; None where it normalises nothing."""
    data = config.data.get("data") or {}
    found = _first_normalise(data.get("test") or data.get("val") or config.data.get("test_pipeline"))
    if found is None:
        return None
    return {key: list(v) if isinstance(v, list | tuple) else v for key, v in found.items() if key != "type"}


def _first_normalise(node: Any) -> dict[str, Any] | None:
    if isinstance(node, dict):
        if node.get("type") == "Normalize":
            return node
        node = list(node.values())
    if isinstance(node, list | tuple):
        return next((found for item in node if (found := _first_normalise(item)) is not None), None)
    return None
