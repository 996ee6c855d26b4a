"""The reference's own numbers: load, resize, flip, normalise and pad one photograph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.data.transforms import Annotations, Sample, build_pipeline

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    with np.load(GOLDEN / "transforms.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def sample(recorded: dict[str, Any]) -> Sample:
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    pipeline = build_pipeline(
        [
            {"type": "LoadImageFromFile"},
            {"type": "LoadAnnotations", "with_bbox": True},
            {"type": "Resize", "img_scale": (1333, 800), "keep_ratio": True},
            {"type": "RandomFlip", "flip_ratio": 1.0},
            {"type": "Normalize", "mean": mean, "std": std, "to_rgb": True},
            {"type": "Pad", "size_divisor": 32},
        ]
    )
    annotations = Annotations(boxes=recorded["boxes_in"], labels=np.zeros(2, np.int64))
    (out,) = pipeline(
        Sample(filename=str(GOLDEN / str(recorded["image"])), annotations=annotations),
        np.random.default_rng(0),
    )
    return out


def test_pixels_are_equal_in_every_bit(sample: Sample, recorded: dict[str, Any]) -> None:
    np.testing.assert_array_equal(sample.pixels()[::16, ::16], recorded["img_every_16"])


def test_mean(sample: Sample, recorded: dict[str, Any]) -> None:
    assert sample.pixels().mean() == pytest.approx(float(recorded["mean"]), abs=1e-6)


def test_sizes_and_scale_factor(sample: Sample, recorded: dict[str, Any]) -> None:
    assert sample.input_hw == tuple(recorded["img_shape"][:2])
    assert sample.pad_hw == tuple(recorded["pad_shape"][:2])
    np.testing.assert_array_equal(np.array(sample.scale_factor, np.float32), recorded["scale_factor"])


def test_boxes_are_equal_in_every_bit(sample: Sample, recorded: dict[str, Any]) -> None:
    np.testing.assert_array_equal(sample.boxes, recorded["boxes_out"])
