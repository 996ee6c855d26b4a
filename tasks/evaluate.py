"""Step `evaluate`: metrics, curves and pictures of a trained model on the validation split."""

from __future__ import annotations

import csv
import io
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.errors import DatasetError
from detector.lineage.carriers import with_key
from tasks import report, tracked_run, tracking, train
from tasks.digests import digest
from tasks.request import Request, dataset_paths
from tasks.stamping import stamping
from tasks.steps import Job, Step, write_json, write_text
from tasks.testing import NOT_TESTING, kept, trained

if TYPE_CHECKING:
    from detector.config import Config
    from detector.engine.joined_split import TestData
    from detector.evaluation.report import PrCurve
    from detector.structures.samples import Detections

    Found = Mapping[int | str, Detections]

SAMPLES = 8  # pictures per evaluation
UNREAD = (*NOT_TESTING, "data.test", "data.test_dataloader")  # keys of a config that do not matter here
DRAWN_FROM = 0.3  # score from which a detection is drawn


def run(job: Job, request: Request) -> dict[str, Any]:
    """Run the model on the validation split, measure, draw, and tell MLflow."""
    with stamping("evaluate", job.key, request, digest(request.inputs("val"))):
        return _run(job, request)


def _run(job: Job, request: Request) -> dict[str, Any]:
    from detector.engine.evaluate import split_dataset, test

    folder = request.run_dir / "eval"
    config = request.loaded
    dataset = split_dataset(config, "val")
    job.log(f"evaluate: {request.checkpoint} on {len(dataset)} images")
    folder.mkdir(parents=True, exist_ok=True)
    found = test(
        config, request.checkpoint, dataset=dataset, split="val", out=folder / "results.pkl",
        score_threshold=request.score_threshold, device=request.device,
    )  # fmt: skip
    results = kept(found, request.score_threshold)
    metrics = measure(config, dataset, results, folder)
    write_json(folder / "metrics.json", with_key(metrics))
    pictures = draw(dataset, results, folder / "samples")
    _track(request, metrics, pictures, job)
    for name in report.headline(metrics):
        job.log(f"evaluate: {name} {metrics[name]:.4f}")
    return {"metrics": metrics}


def measure(config: Config, dataset: TestData, results: Found, folder: Path) -> dict[str, float]:
    """Every metric that the data set's kind and the results have; writes ``pr.csv``."""
    from detector.engine.scoring import measure_fitting

    found = measure_fitting(config, dataset, results)
    write_text(folder / "pr.csv", pr_table(found.curves))
    return numbers(found.metrics)


def truth_of(images: Path) -> Path | None:
    """Cityscapes' ground truth of a folder of images, if it lies in its layout (``leftImg8bit/<split>``)."""
    truth = images.parent.parent / "gtFine" / images.name
    return truth if images.parent.name == "leftImg8bit" and truth.is_dir() else None


def numbers(metrics: Mapping[str, float | str]) -> dict[str, float]:
    """The finite numbers, names without slashes, so that `dvc metrics` shows them flat."""
    return {
        re.sub(r"[/ ]", "_", name): float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def pr_table(curves: Mapping[str, PrCurve]) -> str:
    """Precision over recall at IoU 0.5 as CSV: recall, bbox, segm and what else there is; empty where not.

    Without any curve, as of a model that only makes proposals, precision is empty at every recall.
    """
    columns = list(dict.fromkeys(["bbox", "segm", *curves]))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["recall", *columns])
    recalls = next((curve.recall.tolist() for curve in curves.values()), [0.0, 1.0])
    for index, recall in enumerate(recalls):
        points = [f"{curves[name].precision[index]:.5f}" if name in curves else "" for name in columns]
        writer.writerow([f"{recall:.2f}", *points])
    return out.getvalue()


def draw(dataset: TestData, results: Found, folder: Path) -> list[Path]:
    """Pictures of ground truth and predictions for images spread evenly over the split."""
    import cv2

    from detector.visualize import side_by_side

    shutil.rmtree(folder, ignore_errors=True)
    written: list[Path] = []
    for index in spread(len(dataset), SAMPLES):
        info = dataset.image_info(index)
        source = Path(dataset.img_prefix) / info["file_name"]
        image = cv2.imread(str(source))
        if image is None:
            raise DatasetError(
                f"{source}: not readable as an image; expected one to draw on. Restore the file."
            )
        path = folder / f"{source.stem}.png"
        if path in written:  # of another data set
            path = folder / f"{source.stem}_{index}.png"
        found, truth = results[info["id"]], ground_truth(dataset, index)
        side_by_side(
            image,
            truth,
            found,
            dataset.class_names,
            palette=dataset.palette,
            score_thr=DRAWN_FROM,
            out_file=path,
        )
        written.append(path)
    return written


def spread(length: int, count: int) -> list[int]:
    """At most ``count`` different positions spread evenly over ``length``, first and last included."""
    if length <= count:
        return list(range(length))
    return [round(position * (length - 1) / max(1, count - 1)) for position in range(count)]


def ground_truth(dataset: TestData, index: int) -> Detections:
    """What the annotations say about an image, as detections of score 1."""
    import torch

    from detector.structures.masks import from_segmentation
    from detector.structures.samples import Detections

    found = dataset.annotations(index)
    masks = [from_segmentation(item, found.image_hw) for item in found.segmentations]
    boxes = torch.from_numpy(found.boxes)
    labels = torch.from_numpy(found.labels)
    return Detections(boxes=boxes, scores=torch.ones(len(boxes)), labels=labels, masks=masks or None)


def _track(request: Request, metrics: Mapping[str, float], pictures: list[Path], job: Job) -> None:
    """Add the result to the MLflow run of the training that made the checkpoint."""
    curves, saved = request.run_dir / "eval" / "pr.csv", request.run_dir / "eval" / "metrics.json"
    tags = {"score_threshold": str(request.score_threshold), **tracked_run.git_tags()}

    def send(session: tracking.Session) -> None:
        session.send_metrics("eval", metrics, digest([job.key, metrics]))
        session.send_files(pictures, "samples", job.key)
        session.send_files([curves, saved], "eval", job.key)
        session.send_tags({f"eval.{name}": value for name, value in tags.items()})

    def facts(key: str) -> tracked_run.Facts:
        return train.facts(key, request)

    tracking.add(request.run_dir / "train", request.checkpoint, facts, send, job.log)


def inputs(request: Request) -> dict[str, Any]:
    """The checkpoint, what testing reads of the config, the validation data and the threshold."""
    images = dataset_paths(request.loaded.data.get("data", {}).get("val"))
    return {
        "checkpoint": trained(request),
        "config": request.settings(without=UNREAD),
        "data": request.inputs("val"),
        "truth": request.digests([truth for truth in map(truth_of, images) if truth]),
        "score_threshold": request.score_threshold,
    }


def outputs(request: Request) -> list[Path]:
    """Everything below ``eval`` that later steps, DVC and people read."""
    return [request.run_dir / "eval" / name for name in ("metrics.json", "pr.csv", "results.pkl", "samples")]


STEP: Step[Request] = Step(
    name="evaluate",
    run=run,
    inputs=inputs,
    outputs=outputs,
    details=lambda request: {"config": request.values(without=UNREAD)},
    code=("detector.engine.evaluate",),
    ignore=(
        "tasks.train",
        "tasks.prepare",
        "tasks.convert",
        "detector.engine.train",
        "detector.engine.trainer",
    ),
    versions=(
        "torch",
        "torchvision",
        "numpy",
        "opencv-python",
        "pycocotools",
        "hotcoco",
        "cityscapesScripts",
    ),
)
