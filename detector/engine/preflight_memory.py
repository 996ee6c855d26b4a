"""Pre-flight checks of memory: annotations, batches and a training step.

The memory of training is a lower bound: weights, gradients, optimizer state, the batch, and what backbone,
neck and dense head keep for the backward pass, counted without computing anything. RoI heads come on top.

Shapes: B images, H x W the largest network input.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detector.engine.preflight_data import parts
from detector.engine.preflight_machine import TIGHT, as_size, checkpoint_bytes, tensor_bytes
from detector.engine.preflight_pipeline import steps_of
from detector.engine.preflight_result import OK, PROBLEM, WARNING, Check
from detector.errors import MachineError

#: batches that a worker has ready
PREFETCH = 2


def check_memory(
    cfg: Mapping[str, Any], dataset: Any, model: nn.Module | None, device: torch.device
) -> Iterator[Check]:
    """Annotations and batches against the host's memory, and training against the device's."""
    loader = (cfg.get("data") or {}).get("train_dataloader") or {}
    batch, workers = int(loader.get("samples_per_gpu", 1)), int(loader.get("workers_per_gpu", 0))
    hw = input_hw((cfg.get("data") or {}).get("train"))
    members = parts(dataset)
    notes = sum(index_bytes(part.index) for part in members)
    images = sum(map(len, members))
    objects = sum(len(part.index.labels) for part in members) / max(1, images)
    drawn = any(part.pipeline.loads_masks for part in members)
    one = batch_bytes(batch, hw, objects if drawn else 0.0) if hw else 0
    yield _host_memory(notes, one, workers)
    if hw and workers and (shared := _shared_memory(one, workers)):
        yield shared
    if hw and model is not None:
        yield _training_memory(cfg, model, batch, hw, device)


def _host_memory(annotations: int, batch: int, workers: int) -> Check:
    """Annotations are in memory already and shared by the workers; batches come on top."""
    waiting = batch * (workers * PREFETCH + 2)
    free = free_memory()
    text = (
        f"annotations {as_size(annotations)}, once for all {workers} workers; batches of about "
        f"{as_size(batch)}, {as_size(waiting)} at once; {as_size(free)} are free"
    )
    if waiting <= TIGHT * free:
        return Check("memory of the data", OK, text)
    remedy = "Take fewer workers_per_gpu or samples_per_gpu."
    return Check("memory of the data", WARNING, text, remedy, MachineError)


def _shared_memory(batch: int, workers: int) -> Check | None:
    """Whether /dev/shm, through which workers send batches, holds them; containers often give 64 MB."""
    place = Path("/dev/shm")
    if not place.is_dir():
        return None
    usage = shutil.disk_usage(place)
    waiting = batch * workers * PREFETCH
    if waiting <= usage.free:
        return None
    text = f"workers send batches of {as_size(batch)} through {place}, which has {as_size(usage.free)} free"
    remedy = "Start the container with a larger --shm-size, or set workers_per_gpu=0."
    status = PROBLEM if batch > usage.free else WARNING
    return Check("shared memory", status, text, remedy, MachineError)


def _training_memory(
    cfg: Mapping[str, Any], model: nn.Module, batch: int, hw: tuple[int, int], device: torch.device
) -> Check:
    """A lower bound of a training step's memory against the device's."""
    trained = sum(tensor_bytes(p) for p in model.parameters() if p.requires_grad)
    fixed = checkpoint_bytes(cfg, model) + trained  # the file holds all of it but the gradients
    kept = saved_bytes(model, (batch, 3, *hw))
    needed = fixed + (kept or 0) + 4 * 3 * batch * hw[0] * hw[1]
    free, total, place = device_memory(device)
    known = (
        f"{as_size(kept)} kept for the backward pass"
        if kept is not None
        else "the backward pass not estimated"
    )
    text = (
        f"at least {as_size(needed)} for {batch} x {hw[1]} x {hw[0]} (weights, gradients and optimizer "
        f"{as_size(fixed)}, {known}); {as_size(free)} of {as_size(total)} are free on {place}"
    )
    if needed <= TIGHT * free:
        return Check("memory of training", OK, text)
    status = PROBLEM if needed > total else WARNING
    return Check(
        "memory of training", status, text, "Take fewer samples_per_gpu or a smaller img_scale.", MachineError
    )


def saved_bytes(model: nn.Module, shape: tuple[int, int, int, int]) -> int | None:
    """Bytes that backbone, neck and dense head keep for the backward pass; None where that cannot be told.

    Args:
        model: on the meta device, where a forward pass computes shapes only; left in training mode.
        shape: (B, 3, H, W) of the input.
    """
    own = {p.untyped_storage()._cdata for p in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor  # keeps the storage, so that its address is not given to another

    any_model: Any = model.train()
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            feats = any_model.backbone(torch.empty(shape, device="meta"))
            if getattr(any_model, "neck", None) is not None:
                feats = any_model.neck(feats)
            for name in ("rpn_head", "bbox_head"):
                head = getattr(any_model, name, None)
                feats = (feats, head(feats)) if head is not None else feats
                if head is not None:
                    break
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError):
        return None
    return sum(kept.values())


def input_hw(section: Any) -> tuple[int, int] | None:
    """(height, width) of the largest training input that a data section's pipelines make; None if unknown."""
    steps = list(steps_of(section))
    sizes: list[tuple[int, int]] = []
    for step in steps:
        scale = step.get("img_scale") if step["type"] in ("Resize", "Mosaic") else None
        scales = scale if isinstance(scale, list) else [scale]
        sizes += [(int(s[0]), int(s[1])) for s in scales if isinstance(s, list | tuple) and len(s) == 2]
    if not sizes:
        return None
    long, short = max(sizes, key=lambda s: s[0] * s[1])
    height, width = min(long, short), max(long, short)
    for step in steps:
        crop = step.get("crop_size") if step["type"] == "RandomCrop" else None
        if isinstance(crop, list | tuple) and step.get("crop_type", "absolute") == "absolute":
            height, width = min(height, int(crop[0])), min(width, int(crop[1]))
    divisor = max(
        [1, *(int(s["size_divisor"]) for s in steps if s["type"] == "Pad" and s.get("size_divisor"))]
    )
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def batch_bytes(batch: int, hw: tuple[int, int], objects: float) -> int:
    """Size of a batch: float32 pixels, and a byte per pixel of every mask."""
    return int(batch * hw[0] * hw[1] * (3 * 4 + objects))


def index_bytes(value: Any) -> int:
    """Bytes of all arrays of an index."""
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return sum(index_bytes(getattr(value, field.name)) for field in dataclasses.fields(value))
    return sum(index_bytes(item) for item in vars(value).values()) if hasattr(value, "__dict__") else 0


def free_memory() -> int:
    """Bytes of host memory that can be had, by the machine and by the control group."""
    import psutil

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - used))


def device_memory(device: torch.device) -> tuple[int, int, str]:
    """(free bytes, all bytes, name) of the device's memory."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free, total, str(device)
    import psutil

    return free_memory(), int(psutil.virtual_memory().total), "the host"
