"""Pre-flight checks of the machine: versions, and free disk for checkpoints and results."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detector.engine.checkpoints import regular_checkpoints
from detector.engine.preflight_data import parts
from detector.engine.preflight_result import OK, PROBLEM, WARNING, Check
from detector.engine.settings import read_plan
from detector.errors import ConfigError, MachineError

#: the first release whose restricted loading of checkpoints is safe
LEAST_TORCH = (2, 10)
#: tensors of a parameter's size that an optimizer keeps
STATES = {"Adam": 2, "AdamW": 2, "NAdam": 2, "RAdam": 2, "Adamax": 2, "SGD": 1, "RMSprop": 1, "Adagrad": 1}
#: results of one detection: numbers, and run lengths as long as the mean of the COCO API's example masks
BOX_BYTES, MASK_BYTES = 24, 280
#: above this share of what is free a warning is due
TIGHT = 0.9


def check_versions() -> Check:
    """Whether torch is new enough to read checkpoints safely."""
    import cv2
    import torchvision

    number = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2] if part.isdigit())
    text = (
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, numpy {np.__version__}, "
        f"OpenCV {cv2.__version__}"
    )
    if number >= LEAST_TORCH:
        return Check("versions", OK, text)
    least = ".".join(map(str, LEAST_TORCH))
    return Check(
        "versions",
        PROBLEM,
        f"{text}; expected torch {least} or newer, older ones can run code from a checkpoint",
        "Install the versions of the lock file: uv sync.",
        MachineError,
    )


def check_disk(cfg: Mapping[str, Any], model: nn.Module | None, work_dir: Path) -> Iterator[Check]:
    """Whether the checkpoints that the run keeps fit on the disk."""
    if model is None:
        return
    try:
        plan = read_plan(cfg)
    except ConfigError:  # the run itself raises it, with its own words
        return
    size = checkpoint_bytes(cfg, model)
    interval = plan.checkpoint_interval or plan.total
    count = max(1, -(-plan.total // interval))
    if plan.max_keep_checkpoints > 0:
        count = min(count, plan.max_keep_checkpoints)
    best = plan.evaluation is not None and plan.evaluation.save_best is not None
    there = len(regular_checkpoints(work_dir)) if work_dir.is_dir() else 0
    needed = size * (max(0, count - there) + int(best) + 1)  # one more while it is written
    free = free_disk(work_dir)
    text = (
        f"{count}{' and the best' if best else ''} of about {as_size(size)} each need {as_size(needed)}, "
        f"{as_size(free)} are free at {work_dir}"
    )
    if needed <= TIGHT * free:
        yield Check("disk for checkpoints", OK, text)
        return
    status = PROBLEM if needed > free else WARNING
    remedy = "Free some, give another --work-dir, or keep fewer: checkpoint_config=dict(max_keep_ckpts=2)."
    yield Check("disk for checkpoints", status, text, remedy, MachineError)


def checkpoint_bytes(cfg: Mapping[str, Any], model: nn.Module) -> int:
    """Size of a checkpoint with the optimizer's state."""
    states = STATES.get(str((cfg.get("optimizer") or {}).get("type")), 1)
    trained = sum(tensor_bytes(p) for p in model.parameters() if p.requires_grad)
    return sum(tensor_bytes(t) for t in model.state_dict().values()) + states * trained


def check_results(cfg: Mapping[str, Any], dataset: Any, out: str | Path | None) -> Iterator[Check]:
    """Whether the results of a test fit on the disk."""
    members = parts(dataset)
    if out is None or not members:
        return
    per_image = max([100, *_values(cfg.get("model"), "max_per_img")])
    masks = "mask_head" in str(cfg.get("model"))
    needed = sum(map(len, members)) * per_image * (BOX_BYTES + (MASK_BYTES if masks else 0))
    folder = Path(out).parent
    free = free_disk(folder)
    text = f"at most about {as_size(needed)} for results, {as_size(free)} are free at {folder}"
    status = OK if needed <= TIGHT * free else WARNING
    yield Check("disk for results", status, text, "Free some, or give another place for --out.", MachineError)


def free_disk(path: Path) -> int:
    """Free bytes where a path is or will be."""
    place = path.resolve()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def as_size(count: float) -> str:
    """Bytes for people."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = next((i for i in range(len(units)) if count < 1000 * 1024**i), len(units) - 1)
    scaled = count / 1024**power
    return f"{scaled:.0f} {units[power]}" if scaled >= 10 or power == 0 else f"{scaled:.1f} {units[power]}"


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's values."""
    return tensor.numel() * tensor.element_size()


def _values(node: Any, key: str) -> Iterator[int]:
    """Whole numbers under a key, at any depth."""
    if isinstance(node, Mapping):
        if isinstance(node.get(key), int):
            yield node[key]
        for value in node.values():
            yield from _values(value, key)
    elif isinstance(node, list | tuple):
        for item in node:
            yield from _values(item, key)
