"""What every family must do: train on empty images, keep the images of a batch apart, begin finite.

A few families stand for all; with the environment variable DETECTOR_ALL_FAMILIES=1 each has its turn.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from detector.structures.samples import Batch, ImageMeta, Targets
from tests.parity.harness import GOLDEN, WEIGHTS, golden_targets, load, matches

STEMS = sorted(path.stem for path in (GOLDEN / "models").glob("*.npz"))
#: one file per family, the first
FAMILIES = {stem.split("__")[0]: stem for stem in reversed(STEMS)}
SHOWN = {"cascade_rcnn", "mask_rcnn", "paa", "solov2", "ssd", "yolox"}
CHOSEN = sorted(FAMILIES if os.environ.get("DETECTOR_ALL_FAMILIES") else SHOWN)
SIZE = (128, 160)
LARGER = {"pascal_voc": (512, 512), "pisa": (300, 300), "ssd": (300, 300), "wider_face": (300, 300)}
#: parts that wait for pretrained weights, or that the reference leaves as PyTorch makes them
KEPT = ("backbone.", "neck.rfp_")


@pytest.fixture(scope="module", params=CHOSEN)
def family(request: pytest.FixtureRequest) -> tuple[Any, tuple[int, int]]:
    """The family's model with the golden weights, and the height and width of a small input.

    pytest runs all tests of one family before the next is made.
    """
    return load(FAMILIES[request.param])[2], LARGER.get(request.param, SIZE)


def images(count: int, size: tuple[int, int]) -> Tensor:
    return torch.cat([WEIGHTS.golden_image(*size, seed) for seed in range(count)])


def empty_targets(height: int, width: int) -> Targets:
    return Targets(
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.long),
        masks=torch.zeros(0, height, width, dtype=torch.uint8),
        semantic=torch.zeros(height // 8, width // 8, dtype=torch.long),
    )


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack([value.sum() for name, value in losses.items() if "loss" in name]).sum()


@pytest.mark.slow
@pytest.mark.parametrize("objects", [(4, 0), (0, 0)], ids=["one-empty", "both-empty"])
def test_images_without_objects_train(family: Any, objects: tuple[int, int]) -> None:
    model, size = family
    model.train().zero_grad()
    full = golden_targets(*size, model.num_classes or 80)
    targets = [full if count else empty_targets(*size) for count in objects]
    metas = [ImageMeta(size, size, size)] * 2
    loss = total(model.loss(Batch(images(2, size), metas, targets)))
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert torch.isfinite(loss)
    assert grads
    assert all(bool(torch.isfinite(g).all()) for g in grads)


def reached(model: Any, targets: Targets, size: tuple[int, int]) -> set[str]:
    """Names of the parameters that a training step on one image gives a gradient."""
    model.train().zero_grad(set_to_none=True)
    total(model.loss(Batch(images(1, size), [ImageMeta(size, size, size)], [targets]))).backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.slow
def test_every_parameter_gets_its_gradient_without_objects_too(family: Any) -> None:
    """Or processes that train together would wait for one another."""
    model, size = family
    wanted = reached(model, golden_targets(*size, model.num_classes or 80), size)
    assert wanted == {name for name, p in model.named_parameters() if p.requires_grad}
    assert sorted(wanted - reached(model, empty_targets(*size), size)) == []


@pytest.mark.slow
@torch.no_grad()
def test_an_image_s_detections_do_not_depend_on_its_neighbour(family: Any) -> None:
    model, size = family
    model.eval()
    shapes = [(size[0] - 16, size[1]), (size[0], size[1] - 30)]
    both, metas = images(2, size), [ImageMeta(shape, shape, size) for shape in shapes]
    for image, (height, width) in zip(both, shapes, strict=True):
        image[:, height:] = 0
        image[..., width:] = 0
    together = model.predict(Batch(both, metas))
    alone = [model.predict(Batch(both[i : i + 1], [metas[i]]))[0] for i in range(2)]
    for found, single in zip(together, alone, strict=True):
        rows = torch.cat((single.boxes, single.scores[:, None]), dim=1).numpy()
        assert abs(len(found) - len(single)) <= 1
        assert len(matches(rows, single.labels.numpy(), found)) >= 0.97 * len(single)


@pytest.mark.slow
def test_first_values_are_finite_and_drawn_anew(family: Any) -> None:
    model, _ = family
    torch.manual_seed(0)
    model.init_weights()
    first = {name: value.detach().clone() for name, value in model.named_parameters()}
    torch.manual_seed(1)
    model.init_weights()
    assert all(bool(torch.isfinite(value).all()) for value in first.values())
    weights = [name for name, value in first.items() if value.dim() > 1 and not name.startswith(KEPT)]
    weights = [name for name in weights if bool(first[name].any())]
    now = dict(model.named_parameters())
    assert len([name for name in weights if not torch.equal(first[name], now[name])]) >= 0.9 * len(weights)
