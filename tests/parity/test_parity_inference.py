"""``inference_detector`` from an image file, with the reference's own configs and test pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detector import inference_detector, init_detector
from detector.structures.samples import Detections
from tests.parity.harness import GOLDEN, WEIGHTS, mask_iou, matches, reference_configs

STEMS = sorted(p.stem for p in (GOLDEN / "inference").glob("e2e__*.npz"))


def as_detections(per_class: list[np.ndarray]) -> Detections:
    """The list-per-class result as one set."""
    boxes = torch.from_numpy(np.concatenate(per_class))
    labels = np.repeat(np.arange(len(per_class)), [len(rows) for rows in per_class])
    return Detections(boxes=boxes[:, :4], scores=boxes[:, 4], labels=torch.from_numpy(labels))


@pytest.mark.slow
@pytest.mark.parametrize("stem", STEMS)
def test_detections_from_the_image_file(stem: str, tmp_path: Path) -> None:
    golden = np.load(GOLDEN / "inference" / f"{stem}.npz")
    scale = tuple(int(side) for side in golden["img_scale"])
    model = init_detector(
        reference_configs() / str(golden["config"]),
        device="cpu",
        cfg_options={"data.test.pipeline.1.img_scale": scale},
    )
    WEIGHTS.fill_model(model)
    result: Any = inference_detector(model, GOLDEN / "BloodImage_00007.jpg")
    per_class, masks = result if isinstance(result, tuple) else (result, None)
    found = as_detections(per_class)
    rows = golden["result/dets"]
    assert len(found) == len(rows)
    pairs = matches(rows, golden["result/labels"], found)
    assert len(pairs) >= 0.98 * len(rows)
    if "result/rles" in golden:
        assert masks is not None
        own = [rle for of_class in masks for rle in of_class]
        wanted = [
            {"size": size, "counts": counts.encode()}
            for size, counts in json.loads(bytes(golden["result/rles"]))
        ]
        assert min(mask_iou(own[j], wanted[i]) for i, j in pairs) >= 0.99
