"""Models against the numbers recorded from MMDetection 2.28.2 (tests/golden/models/README.md).

``python -m tests.parity.harness [NAME ...] [--folder FOLDER]`` prints one row per golden file: the worst
difference of each kind.

Three things of the recording are known and taken into account here:

- Random weights make near-ties. ``noise`` moves every pixel of the input by one unit of float32's precision;
  what changes then was decided by rounding, not by the model.
- The recorder left DropPath's default rate of PVT on. ``DROPPED`` says which branches its random numbers left
  out: the first pattern tried, fewest branches first, that gives the recorded losses (to 2e-8, 2e-7, 2e-6).
- A mask pixel whose probability is within ``UNDECIDED`` of the threshold may fall on either side; and a box
  without width or height has an empty mask here, where the reference samples at infinite coordinates.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from detector.build import build_model
from detector.config import load_config
from detector.layers.drop_path import DropPath
from detector.structures.samples import Batch, Detections, ImageMeta, Targets

GOLDEN = Path(__file__).parents[1] / "golden"
#: rows of DropPath modules, in order, whose branch was left out when the losses were recorded
DROPPED = {
    "pvt__retinanet_pvt-t_fpn_1x_coco": {2},
    "pvt__retinanet_pvtv2-b1_fpn_1x_coco": {12},
    "rfnext__rfnext_search_mask_rcnn_pvtv2-b0_fpn_1x_coco": {14},
}
UNDECIDED = 1e-4


def _weights_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_weights", GOLDEN / "golden_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WEIGHTS = _weights_module()


@dataclass
class Differences:
    """Worst differences of one golden file; NaN where the file holds nothing to compare.

    Attributes:
        feats: of the feature summaries, in standard deviations of the tensor.
        raw: of the raw summaries of the RPN or the dense head, in standard deviations.
        counts: detections found and recorded, per case.
        unmatched: largest share of recorded detections without a partner.
        mask_iou: smallest IoU of matched masks, over their decided pixels.
        losses: relative.
        grad_norm: relative.
        grads: relative, of single parameters whose gradient is not the rounding of a zero.
        no_grad: parameters without a gradient, found and recorded.
        seconds: time of the comparison.
    """

    feats: float = float("nan")
    raw: float = float("nan")
    counts: tuple[tuple[int, int], ...] = ()
    unmatched: float = float("nan")
    mask_iou: float = float("nan")
    losses: float = float("nan")
    grad_norm: float = float("nan")
    grads: float = float("nan")
    no_grad: tuple[int, int] | None = None
    seconds: float = 0.0
    details: dict[str, tuple[float, float]] | None = None


def replace_everywhere(node: Any, changes: dict[str, Any], only_type: str | None = None) -> Any:
    """Set keys in every nested dict that has them (and, if given, the type)."""
    if isinstance(node, dict):
        matches = only_type is None or node.get("type") == only_type
        hits = {k: v for k, v in changes.items() if k in node and matches}
        return {k: hits.get(k, replace_everywhere(v, changes, only_type)) for k, v in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(replace_everywhere(v, changes, only_type) for v in node)
    return node


def reference_configs() -> Path:
    """The reference's configs, read as data from its installed package; the package is never imported."""
    spec = importlib.util.find_spec("mmdet")
    if spec is None or spec.origin is None:
        pytest.skip("the reference's configs come with the dev dependency mmdet")
    return Path(spec.origin).parent / ".mim" / "configs"


def load(stem: str, folder: Path = GOLDEN / "models") -> tuple[Any, dict[str, Any], Any]:
    """The golden arrays, what the file says of them, and the model with the golden weights."""
    golden = np.load(folder / f"{stem}.npz")
    info = json.loads(bytes(golden["info"]))
    cfg = load_config(reference_configs() / info["config"]).data["model"]
    cfg = replace_everywhere(cfg, {"num": 1_000_000}, "RandomSampler")
    cfg = replace_everywhere(cfg, {"drop_rate": 0.0, "attn_drop_rate": 0.0, "drop_path_rate": 0.0})
    if cfg.get("test_cfg") is not None:
        cfg["test_cfg"] = replace_everywhere(cfg["test_cfg"], info.get("test_cfg_overrides") or {})
    model = build_model(cfg, training=True)
    WEIGHTS.fill_model(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    silence_drop_paths(model, DROPPED.get(stem))
    return golden, info, model


def silence_drop_paths(model: nn.Module, dropped: set[int] | None) -> None:
    """Leave out no branch in training; or, where ``dropped`` says which, exactly those, the others scaled."""
    for i, module in enumerate(m for m in model.modules() if isinstance(m, DropPath)):
        factor = float(i not in dropped) / (1 - module.p) if dropped else 1.0
        module.p = 0.0
        module.register_forward_hook(
            lambda own, _inputs, output, factor=factor: output * factor if own.training else output
        )


def flat(outputs: Any) -> Iterator[Tensor]:
    """Tensors of nested sequences, in order."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, (list, tuple)):
        for part in outputs:
            yield from flat(part)


def summary(tensor: Tensor) -> np.ndarray:
    """Mean, standard deviation and 16 values, in float64."""
    values = tensor.detach().double().flatten()
    picked = values[:: max(1, values.numel() // 16)][:16]
    return np.array([values.mean().item(), values.std().item(), *picked.tolist()])


def worst_summary(outputs: Any, wanted: list[list[float]]) -> float:
    """Largest difference in standard deviations of the recorded tensor."""
    tensors = list(flat(outputs))
    assert len(tensors) == len(wanted), f"{len(tensors)} tensors; the golden file has {len(wanted)}"
    return max(
        float(np.abs(summary(t) - np.array(w)).max() / (w[1] or 1.0))
        for t, w in zip(tensors, wanted, strict=True)
    )


def matches(rows: np.ndarray, labels: np.ndarray, found: Detections) -> list[tuple[int, int]]:
    """Pairs (golden row, own row) with the same label, score within 1e-4 and box within 0.05 pixels."""
    boxes, scores, own = found.boxes.numpy(), found.scores.numpy(), found.labels.numpy()
    used, pairs = np.zeros(len(found), bool), []
    for i, row in enumerate(rows):
        distance = np.abs(boxes - row[:4]).max(axis=1, initial=0)
        close = (np.abs(scores - row[4]) < 1e-4) & (distance < 0.05) & (own == labels[i]) & ~used
        candidates = np.flatnonzero(close)
        if len(candidates):
            best = candidates[distance[candidates].argmin()]
            used[best] = True
            pairs.append((i, int(best)))
    return pairs


def mask_iou(a: Any, b: Any) -> float:
    """IoU of two encoded masks; 1 for two empty ones."""
    if coco_mask.area(a) + coco_mask.area(b) == 0:
        return 1.0
    return float(coco_mask.iou([a], [b], [0])[0, 0])


def decided_iou(wanted: Any, own: Any, surest: Any, widest: Any) -> float:
    """IoU of two encoded masks over the pixels that the masks of a higher and a lower threshold agree on."""
    a, b, high, low = (coco_mask.decode(m).astype(bool) for m in (wanted, own, surest, widest))
    decided = high | ~low
    union = ((a | b) & decided).sum()
    return float((a & b & decided).sum() / union) if union else 1.0


def mask_ious(
    model: Any,
    batch: Batch,
    rows: np.ndarray,
    rles: list[Any],
    found: Detections,
    pairs: list[tuple[int, int]],
) -> list[float]:
    """IoU of every matched mask whose box has an area."""
    wanted = [{"size": size, "counts": counts.encode()} for size, counts in rles]
    pairs = [(i, j) for i, j in pairs if (rows[i, 2:4] > rows[i, :2]).all()]
    masks: Any = found.masks
    ious = {(i, j): mask_iou(masks[j], wanted[i]) for i, j in pairs}
    close = [pair for pair, iou in ious.items() if iou < 0.99]
    spec = getattr(getattr(model, "roi_head", None), "test_cfg", None)
    if close and spec is not None:
        moved: list[Any] = []
        for step in (UNDECIDED, -UNDECIDED):
            threshold = spec.mask_thr_binary + step
            model.roi_head.test_cfg = dataclasses.replace(spec, mask_thr_binary=threshold)
            moved.append(model.predict(batch)[0].masks)
        model.roi_head.test_cfg = spec
        ious |= {(i, j): decided_iou(wanted[i], masks[j], moved[0][j], moved[1][j]) for i, j in close}
    return list(ious.values())


def with_noise(image: Tensor, noise: int) -> Tensor:
    """The image with every value moved by some 1e-7 of itself; as it is for 0."""
    if not noise:
        return image
    return image * (1 + 1e-7 * torch.randn(image.shape, generator=torch.Generator().manual_seed(noise)))


def golden_input(info: dict[str, Any], case: dict[str, Any], noise: int = 0) -> Batch:
    """The image of one case: zero right of and below ``img_shape``."""
    height, width = case["img_shape"]
    image = with_noise(WEIGHTS.golden_image(*info["pad"], case["seed"]), noise)
    image[:, :, height:] = 0
    image[..., width:] = 0
    meta = ImageMeta(tuple(case["ori_shape"]), (height, width), tuple(info["pad"]), (case["scale"],) * 4)
    return Batch(images=image, metas=[meta])


def golden_targets(height: int, width: int, num_classes: int) -> Targets:
    """Ground truth of the recorded losses."""
    scale = torch.tensor([width / 256, height / 192, width / 256, height / 192])
    boxes = scale * torch.tensor(
        [[20.0, 30, 120, 150], [100, 20, 200, 90], [150, 100, 190, 170], [40, 60, 70, 85]]
    )
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    masks = []
    for x0, y0, x1, y1 in boxes.tolist():
        x, y = (columns - (x0 + x1) / 2) / ((x1 - x0) / 2), (rows - (y0 + y1) / 2) / ((y1 - y0) / 2)
        masks.append((x**2 + y**2 <= 1).to(torch.uint8))
    y, x = torch.meshgrid(torch.arange(height // 8) * 8, torch.arange(width // 8) * 8, indexing="ij")
    return Targets(
        boxes=boxes,
        labels=torch.tensor([1, 5, 17, 40]) % num_classes,
        masks=torch.stack(masks),
        semantic=((y // 16) * 7 + (x // 24) * 3) % 50,
    )


@torch.no_grad()
def compare_predictions(
    golden: Any, info: dict[str, Any], model: Any, worst: Differences, noise: int = 0
) -> None:
    """Features, raw outputs, detections and masks of the two cases."""
    model.eval()
    feats, raws, unmatched, ious, counts = [], [], [], [], []
    for name, case in info["cases"].items():
        batch = golden_input(info, case, noise)
        maps = model.extract_feat(batch.images)
        feats.append(worst_summary(maps, info[f"{name}/feats"]))
        for key, head in (("rpn", "rpn_head"), ("head", "bbox_head")):
            if f"{name}/{key}" in info:
                part = getattr(model, head, None) or model.mask_head
                raws.append(worst_summary(part(maps), info[f"{name}/{key}"]))
        if f"{name}/dets" not in golden:
            continue
        found = model.predict(batch)[0]
        rows = golden[f"{name}/dets"]
        counts.append((len(found), len(rows)))
        pairs = matches(rows, golden[f"{name}/labels"], found)
        unmatched.append(1 - len(pairs) / max(len(rows), 1) if len(rows) else float(len(found) > 0))
        if f"{name}/rles" in golden:
            ious += mask_ious(model, batch, rows, json.loads(bytes(golden[f"{name}/rles"])), found, pairs)
    worst.feats, worst.counts = max(feats), tuple(counts)
    worst.raw = max(raws, default=float("nan"))
    worst.unmatched = max(unmatched, default=float("nan"))
    worst.mask_iou = min(ious, default=float("nan"))


def loss_batch(info: dict[str, Any], model: Any, noise: int = 0) -> Batch:
    """The image and the ground truth of the recorded losses."""
    pad = tuple(info["pad"])
    return Batch(
        with_noise(WEIGHTS.golden_image(*pad), noise),
        [ImageMeta(pad, pad, pad)],
        [golden_targets(*pad, model.num_classes or 80)],
    )


def compare_losses(info: dict[str, Any], model: Any, worst: Differences, noise: int = 0) -> None:
    """Losses and gradients on case A's image."""
    model.train()
    losses = model.loss(loss_batch(info, model, noise))
    losses["loss"] = sum(value for name, value in losses.items() if "loss" in name)
    losses["loss"].backward()
    got, wanted = {name: value.item() for name, value in losses.items()}, info["losses"]
    assert got.keys() == wanted.keys(), f"{sorted(got)} against {sorted(wanted)}"
    worst.details = {name: (got[name], wanted[name]) for name in wanted}
    worst.losses = max(abs(got[name] - wanted[name]) / max(abs(wanted[name]), 1e-3) for name in wanted)
    grads = {n: p.grad.double().norm().item() for n, p in model.named_parameters() if p.grad is not None}
    norm = float(np.sqrt(sum(g**2 for g in grads.values())))
    worst.no_grad = (sum(p.grad is None for p in model.parameters()), info["no_grad"])
    worst.grad_norm = abs(norm - info["grad_norm"]) / info["grad_norm"]
    # below float32's precision of the whole (a bias before a norm), a gradient is the rounding of a zero
    worst.grads = max(
        (abs(grads[n] - g) / g for n, g in info["grads"].items() if g > 1e-7 * info["grad_norm"]),
        default=float("nan"),
    )


def compare(
    stem: str,
    folder: Path = GOLDEN / "models",
    *,
    testing: bool = True,
    training: bool = True,
    noise: int = 0,
) -> Differences:
    """What one golden file holds of ``testing`` (features to masks) and ``training`` (losses, gradients)."""
    start, worst = time.perf_counter(), Differences()
    golden, info, model = load(stem, folder)
    if testing:
        compare_predictions(golden, info, model, worst, noise)
    if training and "losses" in info:
        compare_losses(info, model, worst, noise)
    worst.seconds = time.perf_counter() - start
    return worst


def row(name: str, d: Differences) -> str:
    """One line of the table."""
    numbers = f"{d.feats:9.1e} {d.raw:9.1e} {d.unmatched:9.3f} {d.mask_iou:9.3f} "
    numbers += f"{d.losses:9.1e} {d.grad_norm:9.1e} {d.grads:9.1e}"
    return f"{name[:62]:62s} {numbers} {d.no_grad or '-'} {d.counts} {d.seconds:.0f} s"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of names; all when none is given")
    parser.add_argument("--folder", type=Path, default=GOLDEN / "models")
    parser.add_argument("--no-losses", action="store_true")
    parser.add_argument("--noise", type=int, default=0, help="seed of rounding noise on the input; 0 is none")
    parser.add_argument("--details", action="store_true", help="each loss, found and recorded")
    arguments = parser.parse_args()
    titles = " ".join(
        f"{t:>9s}" for t in ("feats", "raw", "unmatched", "mask IoU", "losses", "norm", "grads")
    )
    print(f"{'':62s} {titles} no_grad counts", flush=True)
    failed = 0
    for path in sorted(arguments.folder.glob("*.npz")):
        if arguments.names and not path.stem.startswith(tuple(arguments.names)):
            continue
        try:
            found = compare(
                path.stem, arguments.folder, training=not arguments.no_losses, noise=arguments.noise
            )
            print(row(path.stem, found), flush=True)
            if arguments.details and found.details:
                for name, (own, wanted) in found.details.items():
                    print(f"    {name:40s} {own:.7g} {wanted:.7g}")
        except Exception as error:  # a table of many models goes on after one that fails
            failed += 1
            print(f"{path.stem[:62]:62s} {type(error).__name__}: {str(error)[:200]}", flush=True)
        gc.collect()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
