"""All processes' results on process 0, through files: no collective carries them, so none times out."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from detector.engine import distributed
from detector.evaluation.results import load_results, save_results
from detector.structures.samples import Detections

Results = dict[int | str, Detections]


def gather(results: Results, shared_dir: Path) -> Results:
    """All processes' results on process 0, through files in a folder of their own."""
    folder = _agree_on_folder(shared_dir)
    records = [
        {
            "id": image_id,
            "boxes": d.boxes.numpy(),
            "scores": d.scores.numpy(),
            "labels": d.labels.numpy(),
            "masks": d.masks,
            "mask_scores": None if d.mask_scores is None else d.mask_scores.numpy(),
        }
        for image_id, d in results.items()
    ]
    save_results(folder / f"part_{distributed.rank()}.pkl", cast(Any, records))
    distributed.barrier()
    if distributed.rank() == 0:
        for number in range(distributed.world_size()):
            for record in load_results(folder / f"part_{number}.pkl"):
                results[record["id"]] = _detections(record)
        shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # another run may use it
            shared_dir.rmdir()
    distributed.barrier()
    return results


def _agree_on_folder(shared_dir: Path) -> Path:
    """A folder that process 0 makes and all know."""
    shared_dir.mkdir(parents=True, exist_ok=True)
    name = tempfile.mkdtemp(dir=shared_dir) if distributed.rank() == 0 else ""
    return shared_dir / distributed.broadcast_text(Path(name).name)


def _detections(record: Mapping[str, Any]) -> Detections:
    """Detections of one gathered record."""
    boxes, scores, labels = (torch.from_numpy(record[key].copy()) for key in ("boxes", "scores", "labels"))
    mask_scores = record.get("mask_scores")
    return Detections(
        boxes=boxes,
        scores=scores,
        labels=labels,
        masks=record["masks"],
        mask_scores=None if mask_scores is None else torch.from_numpy(mask_scores.copy()),
    )
