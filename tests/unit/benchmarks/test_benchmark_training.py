"""What the training benchmark gives both sides is the same."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module; it imports its neighbour as a script does."""
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("training")
    yield module
    for name in ("training", "inference"):
        sys.modules.pop(name, None)


def setting(module: Any, **changes: Any) -> Any:
    values = {
        "kind": "mask", "precision": "fp32", "norm": "frozen", "height": 100, "width": 130, "batch": 2,
        "boxes": 3, "device": "cpu", "channels_last": False,
    }  # fmt: skip
    return module.Setting(**{**values, **changes})


def test_masks_fill_their_boxes(training: Any) -> None:
    boxes, labels, masks = training.targets(setting(training), 0)
    assert boxes.shape == (3, 4)
    assert masks.shape == (3, 100, 130)
    assert ((labels >= 0) & (labels < 80)).all()
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        found = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert torch.allclose(found.float(), box, atol=2)


def test_our_batch_is_what_torchvision_makes_of_the_images(training: Any) -> None:
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    given = setting(training)
    batch = training.our_batch(given)
    transform = GeneralizedRCNNTransform(
        0, 0, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], _skip_resize=True
    )
    theirs = transform(list(training.images(given) / 255))[0].tensors
    assert batch.images.shape == theirs.shape == (2, 3, 128, 160)
    assert torch.allclose(batch.images, theirs, atol=1e-4)
    assert batch.targets[1].masks.shape == (3, 128, 160)


@pytest.mark.slow
def test_both_sides_hold_the_same_weights_and_train_the_same_parameters(training: Any) -> None:
    """With equal weights and regions drawn at random the losses are near each other."""
    torch.manual_seed(0)
    given = setting(training, kind="faster", batch=1)
    made = {name: make() for name, make in training.sides(given).items()}
    counts = {
        name: sum(p.numel() for group in side.optimizer.param_groups for p in group["params"])
        for name, side in made.items()
    }
    extra = 4 * 1024 + 4  # torchvision regresses a box of the background, too
    assert counts["theirs"] - counts["ours"] == extra
    steps = {name: training.step(side, "cpu") for name, side in made.items()}
    assert all(parts["step"] > 0 for parts in steps.values())
    losses = {name: float(side.loss().detach()) for name, side in made.items()}
    assert losses["ours"] == pytest.approx(losses["theirs"], rel=0.5)
