"""How fast a detection is on the CPU, beside torchvision's own models with the same weights.

    uv run python benchmarks/inference.py                      Faster and Mask R-CNN R50-FPN, 9 paired runs
    uv run python benchmarks/inference.py --models mask --profile
    uv run python benchmarks/inference.py --precision bf16     ours in bfloat16, where the processor has it

Both sides start from one 640 x 480 BGR array in memory and hold the same weights, renamed: random ones, set
so that the box head leaves several hundred candidates and both return 100 detections. One run of each side
in turn, in one process.

ours        ``inference_detector`` of the unmodified 1x config: resize to 800 x 1067, normalise, pad to
            800 x 1088, network, proposals, boxes, masks at image size encoded to RLE, lists per class.
            RoIAlign samples each bin adaptively, as the reference does.
torchvision the array as a float tensor, ``model([tensor])``: resize to 800 x 1066, normalise, pad to
            800 x 1088, network, proposals, boxes, masks as (100, 1, 480, 640) floats. RoIAlign takes 4
            samples per bin. Its masks are left as floats (``ratio``), or thresholded and encoded to RLE, too
            (``ratio_rle``).

Prints a line of JSON per model: medians in milliseconds, and ratios ours / theirs of the paired runs. Other
load on the machine disturbs both sides; medians of ratios bear it, and the CPU seconds stand beside them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from detector.inference import inference_detector, init_detector

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {
    "faster": "configs/faster_rcnn/faster_rcnn_r50_fpn_1x_coco.py",
    "mask": "configs/mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py",
}
CLASSES, DETECTIONS, CANDIDATES = 80, 100, 600
# ours -> torchvision's, in this order
NAMES = (
    ("backbone.", "backbone.body."),
    ("neck.lateral_convs.", "backbone.fpn.inner_blocks."),
    ("neck.fpn_convs.", "backbone.fpn.layer_blocks."),
    ("rpn_head.rpn_conv.", "rpn.head.conv.0.0."),
    ("rpn_head.rpn_cls.", "rpn.head.cls_logits."),
    ("rpn_head.rpn_reg.", "rpn.head.bbox_pred."),
    ("roi_head.bbox_head.shared_fcs.0.", "roi_heads.box_head.fc6."),
    ("roi_head.bbox_head.shared_fcs.1.", "roi_heads.box_head.fc7."),
    ("roi_head.bbox_head.fc_cls.", "roi_heads.box_predictor.cls_score."),
    ("roi_head.bbox_head.fc_reg.", "roi_heads.box_predictor.bbox_pred."),
    ("roi_head.mask_head.convs.", "roi_heads.mask_head."),
    ("roi_head.mask_head.upsample.", "roi_heads.mask_predictor.conv5_mask."),
    ("roi_head.mask_head.conv_logits.", "roi_heads.mask_predictor.mask_fcn_logits."),
)


def picture(height: int = 480, width: int = 640, seed: int = 0) -> NDArray[np.uint8]:
    """A (height, width, 3) image of smooth blobs and noise."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(128, 60, (1, 3, height // 32, width // 32)).astype(np.float32))
    smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[0].permute(1, 2, 0)
    noisy = smooth.numpy() + rng.normal(0, 12, (height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def build_ours(kind: str, precision: str = "fp32") -> nn.Module:
    """This project's model of the 1x config, without weights."""
    return init_detector(ROOT / CONFIGS[kind], None, device="cpu", precision=precision)


def build_theirs(kind: str) -> nn.Module:
    """Torchvision's model with the 1x configs' settings, which are its own defaults but for the classes."""
    make = getattr(torchvision.models.detection, f"{kind}rcnn_resnet50_fpn")
    model: nn.Module = make(weights=None, weights_backbone=None, num_classes=CLASSES + 1)
    return model.eval()


@torch.no_grad()
def fill(model: Any, image: NDArray[np.uint8], seed: int = 0) -> None:
    """Random weights whose activations, proposals and class scores are spread as a trained model's."""
    torch.manual_seed(seed)
    model.init_weights()
    norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.constant_(norm.weight, 0.7)
        norm.momentum = 1.0
        norm.train()
    inference_detector(model, image)  # the running statistics become those of the image
    model.eval()
    nn.init.normal_(model.rpn_head.rpn_cls.weight, std=0.05)
    spread_classes(model, image)


def spread_classes(model: Any, image: NDArray[np.uint8]) -> None:
    """Class logits of unit spread, and a background that leaves about ``CANDIDATES`` of (region, class)."""
    head, seen = model.roi_head.bbox_head, []
    hook = head.fc_cls.register_forward_hook(lambda _m, _i, output: seen.append(output))
    nn.init.normal_(head.fc_cls.weight, std=1.0)
    nn.init.zeros_(head.fc_cls.bias)
    inference_detector(model, image)
    hook.remove()
    mean, factor = seen[0].mean(dim=0), 2.5 / seen[0].std(dim=0)
    head.fc_cls.weight.mul_(factor[:, None])
    head.fc_cls.bias.copy_(-mean * factor)
    logits = (seen[0] - mean) * factor
    low, high = -50.0, 50.0
    for _ in range(40):
        middle = (low + high) / 2
        moved = logits + torch.tensor([0.0] * CLASSES + [middle])
        many = int((moved.softmax(dim=1)[:, :-1] > 0.05).sum()) > CANDIDATES
        low, high = (middle, high) if many else (low, middle)
    head.fc_cls.bias[-1] += low


def renamed(key: str) -> str:
    """Torchvision's name of one of our parameters."""
    for own, other in NAMES:
        if key.startswith(own):
            rest = key.removeprefix(own)
            rest = rest.replace("conv.", "0.") if "fpn" in other or other == "roi_heads.mask_head." else rest
            return other + rest
    raise KeyError(key)


def reordered(key: str, value: Tensor) -> Tensor:
    """Rows of a layer with one part per class in torchvision's order: the background first, not last."""
    if ".fc_cls." in key:
        return torch.cat((value[-1:], value[:-1]))
    if ".fc_reg." in key:
        return torch.cat((torch.zeros_like(value[:4]), value))
    if ".conv_logits." in key:
        return torch.cat((torch.zeros_like(value[:1]), value))
    return value


def share_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Give torchvision's model our weights; every tensor has its place."""
    theirs.load_state_dict({renamed(k): reordered(k, v) for k, v in ours.state_dict().items()}, strict=True)


@torch.inference_mode()
def run_theirs(model: nn.Module, image: NDArray[np.uint8], *, rle: bool) -> dict[str, Tensor]:
    """Torchvision's result of a BGR array; with ``rle`` masks are encoded as a user of COCO tools would."""
    tensor = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).float() / 255
    found: dict[str, Tensor] = model([tensor])[0]
    if rle and "masks" in found:
        bitmaps = (found["masks"][:, 0] > 0.5).numpy().astype(np.uint8)
        coco_mask.encode(np.asfortranarray(bitmaps.transpose(1, 2, 0)))
    return found


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Wall-clock and CPU milliseconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3


def compare(kind: str, precision: str, repeats: int) -> dict[str, Any]:
    """Medians and ratios of paired runs, our side in a precision.

    Raises:
        RuntimeError: a side returns another number of detections than the other.
    """
    image = picture()
    plain, ours, theirs = build_ours(kind), build_ours(kind, precision), build_theirs(kind)
    fill(plain, image)
    share_weights(plain, theirs)
    ours.load_state_dict(plain.state_dict(), strict=True)
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: inference_detector(ours, image),
        "theirs": lambda: run_theirs(theirs, image, rle=False),
    }
    if kind == "mask":
        sides["theirs_rle"] = lambda: run_theirs(theirs, image, rle=True)
    found = sides["ours"]()
    count = sum(map(len, found[0] if isinstance(found, tuple) else found))
    if not count == len(sides["theirs"]()["boxes"]) == DETECTIONS:
        raise RuntimeError(f"{kind}: {count} and {len(sides['theirs']()['boxes'])} detections")
    pairs = [{name: timed(run) for name, run in sides.items()} for _ in range(repeats)]
    report: dict[str, Any] = {
        "model": kind,
        "precision": precision,
        "detections": count,
        "threads": torch.get_num_threads(),
    }
    for name in sides:
        report[f"{name}_ms"] = statistics.median(pair[name][0] for pair in pairs)
        report[f"{name}_cpu_ms"] = statistics.median(pair[name][1] for pair in pairs)
    for name in list(sides)[1:]:
        ratios = [pair["ours"][0] / pair[name][0] for pair in pairs]
        suffix = name.removeprefix("theirs")
        report[f"ratio{suffix}"], report[f"ratios{suffix}"] = statistics.median(ratios), sorted(ratios)
        report[f"cpu_ratio{suffix}"] = statistics.median(pair["ours"][1] / pair[name][1] for pair in pairs)
    return report


def profile(kind: str, top: int = 25) -> str:
    """Table of the operators that take most of our time."""
    image, model = picture(), build_ours(kind)
    fill(model, image)
    inference_detector(model, image)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        for _ in range(3):
            inference_detector(model, image)
    return recorded.key_averages().table(sort_by="self_cpu_time_total", row_limit=top)


def rounded(value: Any) -> Any:
    """Numbers to three places."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 3) if isinstance(value, float) else value


def main() -> None:
    """Compare, or profile."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=sorted(CONFIGS), default=sorted(CONFIGS))
    parser.add_argument("--repeats", type=int, default=9, help="paired runs")
    parser.add_argument("--threads", type=int, default=2, help="of torch and OpenCV")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of our side")
    parser.add_argument("--profile", action="store_true", help="print our operators instead of comparing")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for kind in args.models:
        if args.profile:
            sys.stdout.write(profile(kind) + "\n")
            continue
        found = compare(kind, args.precision, args.repeats)
        sys.stdout.write(json.dumps(rounded(found)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
