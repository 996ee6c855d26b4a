"""Detectors of a few thousand weights, from configs with the reference's test pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from detector.checkpoint.files import save_checkpoint
from detector.inference import init_detector

GN = {"type": "GN", "num_groups": 8}
NORM = {"type": "Normalize", "mean": [120.0] * 3, "std": [60.0] * 3, "to_rgb": True}
INNER = [
    {"type": "Resize", "keep_ratio": True},
    NORM,
    {"type": "Pad", "size_divisor": 32},
    {"type": "ImageToTensor", "keys": ["img"]},
    {"type": "Collect", "keys": ["img"]},
]
PIPELINE = [
    {"type": "LoadImageFromFile"},
    {"type": "MultiScaleFlipAug", "img_scale": (96, 96), "flip": False, "transforms": INNER},
]
LOSS = {"type": "CrossEntropyLoss"}
PARTS: dict[str, Any] = {
    "backbone": {
        "type": "ResNet",
        "depth": 18,
        "base_channels": 8,
        "norm_cfg": GN,
        "zero_init_residual": False,
    },
    "neck": {"type": "FPN", "in_channels": [8, 16, 32, 64], "out_channels": 16, "num_outs": 5},
    "rpn_head": {
        "type": "RPNHead",
        "in_channels": 16,
        "feat_channels": 16,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "scales": [4],
            "ratios": [1.0],
            "strides": [4, 8, 16, 32, 64],
        },
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
        "loss_cls": {**LOSS, "use_sigmoid": True},
        "loss_bbox": {"type": "L1Loss"},
    },
}


def extractor(size: int) -> dict[str, Any]:
    return {
        "type": "SingleRoIExtractor",
        "out_channels": 16,
        "featmap_strides": [4, 8, 16, 32],
        "roi_layer": {"type": "RoIAlign", "output_size": size},
    }


ROI_HEAD = {
    "type": "StandardRoIHead",
    "bbox_roi_extractor": extractor(7),
    "bbox_head": {
        "type": "Shared2FCBBoxHead",
        "in_channels": 16,
        "fc_out_channels": 32,
        "num_classes": 3,
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
        "loss_cls": LOSS,
        "loss_bbox": {"type": "L1Loss"},
    },
}
MASKS = {
    "mask_roi_extractor": extractor(14),
    "mask_head": {
        "type": "FCNMaskHead",
        "num_convs": 1,
        "in_channels": 16,
        "conv_out_channels": 16,
        "num_classes": 3,
        "loss_mask": {**LOSS, "use_mask": True},
    },
}
TESTED = {
    "rpn": {"nms_pre": 100, "max_per_img": 50},
    "rcnn": {"score_thr": 0.0, "max_per_img": 10, "mask_thr_binary": 0.5},
}
FASTER = {"type": "FasterRCNN", **PARTS, "roi_head": ROI_HEAD, "test_cfg": TESTED}
MASK = {"type": "MaskRCNN", **PARTS, "roi_head": {**ROI_HEAD, **MASKS}, "test_cfg": TESTED}
RPN = {"type": "RPN", **PARTS, "test_cfg": {"rpn": TESTED["rpn"]}}


def write_config(folder: Path, model: dict[str, Any], **test: Any) -> Path:
    """A config file; ``test`` goes into its test data."""
    section = {"type": "CocoDataset", "pipeline": PIPELINE, **test}
    path = folder / "config.py"
    path.write_text(f"model = {model!r}\ndata = dict(test={section!r})\n")
    return path


def detector(
    folder: Path, model: dict[str, Any] = FASTER, checkpoint: Path | None = None, **test: Any
) -> Any:
    """A detector; random but the same each time without a checkpoint."""
    torch.manual_seed(0)
    built = init_detector(write_config(folder, model, **test), checkpoint, device="cpu")
    if checkpoint is None:
        built.init_weights()
    return built


def write_model(folder: Path, model: dict[str, Any] = MASK) -> tuple[Path, Path]:
    """A config of the classes a, b, c and a checkpoint of it."""
    classes = ("a", "b", "c")
    built = detector(folder, model, classes=classes)
    path = folder / "model.pth"
    save_checkpoint(path, {"state_dict": built.state_dict(), "meta": {"CLASSES": classes}})
    return folder / "config.py", path


def image(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write_video(path: Path, frames: int = 5, *, size: tuple[int, int] = (96, 64), fps: float = 12.5) -> Path:
    """A video of noise."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
    for seed in range(frames):
        writer.write(image(*size, seed))
    writer.release()
    return path
