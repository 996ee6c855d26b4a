"""Step `evaluate`: metrics, curves and pictures of a trained model on the validation split."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.config.resolve import config_dirs
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
    from detector.evaluation.report import Measured, PrCurve
    from detector.structures.samples import Detections

    Found = Mapping[int | str, Detections]

SAMPLES = 8  # pictures per evaluation
UNREAD = (*NOT_TESTING, "data.test", "data.test_dataloader")  # keys of a config that do not matter here
PR_PICTURE, CONFUSIONS, CONFUSION_PICTURE = "pr.png", "confusion.csv", "confusion.png"


def run(job: Job, request: Request) -> dict[str, Any]:
    """Run the model on the validation split, measure, draw, and tell MLflow."""
    with stamping("evaluate", job.key, request, digest(request.inputs("val"))):
        return _run(job, request)


def _run(job: Job, request: Request) -> dict[str, Any]:
    from detector.engine.evaluate import split_dataset, test
    from detector.engine.sample_pictures import draw_samples

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
    measured = examine(config, dataset, results, folder)
    metrics = numbers(measured.metrics)
    write_json(folder / "metrics.json", with_key(metrics))
    pictures = draw_samples(dataset, results, folder / "samples", SAMPLES)
    _track(request, metrics, measured, pictures, job)
    for name in report.headline(metrics):
        job.log(f"evaluate: {name} {metrics[name]:.4f}")
    return {"metrics": metrics}


def measure(config: Config, dataset: TestData, results: Found, folder: Path) -> dict[str, float]:
    """The numbers of ``examine``."""
    return numbers(examine(config, dataset, results, folder).metrics)


def examine(config: Config, dataset: TestData, results: Found, folder: Path) -> Measured:
    """Every metric that the data set's kind and the results have; writes the curves and the confusions."""
    from detector.engine.scoring import measure_fitting
    from detector.visualize import charts

    found = measure_fitting(config, dataset, results)
    write_text(folder / "pr.csv", pr_table(found.curves))
    of_classes = {
        kind: {name: one.curve for name, one in classes.items() if one.curve is not None}
        for kind, classes in found.classes.items()
    }
    charts.precision_recall(found.curves, of_classes, folder / PR_PICTURE, title=config.name)
    confuse(dataset, results if found.classes else {}, folder)
    return found


def confuse(dataset: TestData, results: Found, folder: Path) -> None:
    """Which classes are taken for which, as a table and a picture; zeros where no classes were measured."""
    from detector.evaluation.confusion import IOU_THR, SCORE_THR, confusion_csv, confusion_matrix
    from detector.visualize import charts

    names = dataset.class_names
    images = (_boxes(dataset, index, results) for index in range(len(dataset) if results else 0))
    counts = confusion_matrix(images, len(names))
    write_text(folder / CONFUSIONS, confusion_csv(counts, names))
    title = f"detections of score {SCORE_THR} and above, IoU {IOU_THR}"
    charts.confusion(counts, names, folder / CONFUSION_PICTURE, title=title)


def _boxes(dataset: TestData, index: int, results: Found) -> tuple[Any, ...]:
    truth, found = dataset.annotations(index), results[dataset.image_info(index)["id"]]
    return truth.boxes, truth.labels, found.boxes.numpy(), found.labels.numpy(), found.scores.numpy()


def class_table(measured: Measured) -> dict[str, list[Any]]:
    """Average precision of every class as the columns of a table; None where it was not measured."""
    names = list(dict.fromkeys(name for classes in measured.classes.values() for name in classes))
    table: dict[str, list[Any]] = {"class": names}
    for kind, classes in measured.classes.items():
        table[f"{kind} AP"] = [round(classes[name].ap, 4) if name in classes else None for name in names]
        halves = [classes[name].ap_50 if name in classes else None for name in names]
        table[f"{kind} AP50"] = [None if value is None else round(value, 4) for value in halves]
    return table if names else {}


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


def _track(
    request: Request, metrics: Mapping[str, float], measured: Measured, pictures: list[Path], job: Job
) -> None:
    """Add the result to the MLflow run of the training that made the checkpoint, and register the model."""
    folder = request.run_dir / "eval"
    charts = [folder / name for name in (PR_PICTURE, CONFUSION_PICTURE, CONFUSIONS, "pr.csv", "metrics.json")]
    read, table = train.data_input(request, "val", train.CONTEXTS["val"]), class_table(measured)
    addition = tracking.Addition(
        kind="eval",
        attempt=tracking.attempt_of(request.run_dir),
        when=int((folder / "metrics.json").stat().st_mtime * 1000),
        metrics=dict(metrics),
        tags={"score_threshold": str(request.score_threshold), **tracked_run.git_tags()},
        files={"samples": [str(path) for path in pictures], "eval": [str(path) for path in charts]},
        tables={"eval/class_ap.json": table} if table else {},
        inputs=[read] if read else [],
        model=model_of(request, metrics),
    )
    tracking.add(folder, addition, job.log)


def model_of(request: Request, metrics: Mapping[str, float]) -> tracking.MeasuredModel | None:
    """What is registered: the checkpoint under its family, by the metric that counts; None without one."""
    wanted = str((request.loaded.data.get("evaluation") or {}).get("save_best") or "")
    metric = wanted if wanted in metrics else next(iter(report.headline(metrics)), "")
    if not metric:
        return None
    data = request.data
    return tracking.MeasuredModel(
        family=family_of(request.loaded.path, request.name), config=request.name,
        dataset=data.dataset if data else request.name, data=digest(request.inputs("val")),
        metric=metric, value=repr(metrics[metric]), path=request.checkpoint.as_posix(),
        project=str(Path.cwd()), sha256=trained(request), bytes=str(request.checkpoint.stat().st_size),
        seed=str(request.seed), commit=tracked_run.git_tags().get("git.commit", ""),
    )  # fmt: skip


def family_of(config: Path, name: str) -> str:
    """The family of a config: its folder below ``configs``; a config from elsewhere is one of its own."""
    folders = [folder.resolve() for folder in config_dirs()]
    parts = next(
        (
            Path(config).resolve().relative_to(top).parts
            for top in folders
            if Path(config).resolve().is_relative_to(top)
        ),
        (),
    )
    return parts[0] if len(parts) > 1 else name


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
    names = ("metrics.json", "pr.csv", "results.pkl", "samples", PR_PICTURE, CONFUSIONS, CONFUSION_PICTURE)
    return [request.run_dir / "eval" / name for name in names]


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
