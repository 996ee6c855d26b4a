"""What the steps that test a trained model share: which keys of a config they leave out, what they keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from detector.errors import DatasetError
from tasks.digests import DigestCache
from tasks.request import Request

if TYPE_CHECKING:
    from detector.structures.samples import Detections

NOT_TESTING = (  # keys of a config that only training reads
    "optimizer", "optimizer_config", "lr_config", "momentum_config", "runner", "total_epochs",
    "checkpoint_config", "log_config", "log_level", "workflow", "work_dir", "load_from", "resume_from",
    "auto_resume", "auto_scale_lr", "seed", "deterministic", "dist_params", "train_pipeline",
    "train_dataloader", "data.train", "data.train_dataloader", "data.samples_per_gpu", "data.workers_per_gpu",
)  # fmt: skip


def kept(results: Mapping[Any, Detections], threshold: float | None) -> dict[Any, Detections]:
    """The detections that reach the threshold, for models that drop none themselves."""
    if threshold is None:
        return dict(results)

    def keep(found: Detections) -> Detections:
        chosen = found.scores >= threshold
        if bool(chosen.all()):
            return found
        masks = (
            None
            if found.masks is None
            else [m for m, take in zip(found.masks, chosen.tolist(), strict=True) if take]
        )
        return replace(
            found,
            boxes=found.boxes[chosen],
            scores=found.scores[chosen],
            labels=found.labels[chosen],
            masks=masks,
        )

    return {image_id: keep(found) for image_id, found in results.items()}


def trained(request: Request) -> str:
    """The content digest of the checkpoint.

    Raises:
        DatasetError: nothing was trained yet.
    """
    if not request.checkpoint.is_file():
        raise DatasetError(
            f"{request.checkpoint}: found no such file; expected the checkpoint of {request.name} with seed "
            f"{request.seed}. Train it first: `python -m tasks train --config {request.name} --seed "
            f"{request.seed}`, or run the deployment train-eval."
        )
    return DigestCache().file(request.checkpoint)
