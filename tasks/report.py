"""The report of a run, in Markdown with small pictures in it, and its metrics as table rows."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.request import Request
from tasks.tracked_run import RunFile

LARGEST = 150_000  # bytes of a picture, a third more in the page; Prefect keeps the page in its database
WIDEST = 1200  # pixels
SAMPLES = 2  # of the pictures of predictions beside the truth
AS_IN_CONFIG = "as in the config"
HEADLINE = (
    "bbox_mAP", "bbox_mAP_50", "segm_mAP", "segm_mAP_50", "cityscapes_AP",  # COCO and Cityscapes
    "bbox_AP", "bbox_AP50", "segm_AP", "segm_AP50",  # LVIS
    "mAP", "PQ", "AR@1000",  # VOC, panoptic, proposals
)  # fmt: skip


def markdown(request: Request, done: Sequence[Mapping[str, Any]], metrics: Mapping[str, float]) -> str:
    """What was asked, what each step made, and the result.

    Args:
        request: the run.
        done: the tasks' summaries in order.
        metrics: name -> value, empty when nothing was evaluated.
    """
    asked = f"config `{request.name}`, seed {request.seed}, epochs {request.epochs or AS_IN_CONFIG}"
    threshold = AS_IN_CONFIG if request.score_threshold is None else request.score_threshold
    lines = [f"# {request.name}", "", f"{asked}, score threshold {threshold}.", ""]
    if metrics:
        lines += ["| metric | value |", "|---|---|"]
        lines += [f"| {name} | {metrics[name]:.4f} |" for name in headline(metrics)]
        lines.append("")
    lines += ["| step | made in | outputs |", "|---|---|---|"]
    lines += [
        f"| {step['step']} | {step['seconds']:.1f} s | {_shortened(step['outputs'])} |" for step in done
    ]
    tracked = RunFile.load(request.run_dir)
    if tracked.run_id:
        lines += ["", f"MLflow run [{tracked.run_id}]({tracked.url}) (start `mlflow ui` to open it)."]
    lines += ["", f"All files are in `{request.run_dir}`."]
    for title, path in pictures(request, done):
        lines += ["", f"**{title}**: `{path}`"]
        with suppress(OSError):  # damaged, or gone since: the report is more than its pictures
            lines += ["", f"![{title}]({embedded(path)})"]
    return "\n".join([*lines, ""])


def pictures(request: Request, done: Sequence[Mapping[str, Any]]) -> list[tuple[str, Path]]:
    """Title and file of what the page shows: the course of the training, and predictions beside the truth."""
    steps = {step["step"]: step["outputs"] for step in done}
    found: list[tuple[str, Path]] = []
    curves = request.run_dir / "train" / "curves.png"
    if "train" in steps and curves.is_file():
        found.append(("Course of the training", curves))
    drawn = [path for output in steps.get("evaluate", ()) for path in _drawn(Path(output))]
    return found + [("Truth and predictions", path) for path in drawn[:SAMPLES]]


def _drawn(path: Path) -> list[Path]:
    return sorted(path.glob("*.png")) if path.is_dir() else [path] if path.suffix == ".png" else []


def embedded(path: Path) -> str:
    """A picture as a ``data:`` address of at most ``LARGEST`` bytes: no server has to serve it."""
    from PIL import Image

    with Image.open(path) as opened:
        image = opened.convert("RGB")
    width = WIDEST
    while True:
        image.thumbnail((width, width))
        data = io.BytesIO()
        image.save(data, "WEBP", quality=85)
        if data.tell() <= LARGEST or width < 200:
            return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
        width = width * 3 // 4


def headline(metrics: Mapping[str, float]) -> list[str]:
    """The names of the metrics that say most, also those of the parts of several data sets (``0_mAP``)."""
    return [name for name in metrics if re.sub(r"^\d+_", "", name) in HEADLINE]


def _shortened(outputs: Sequence[str], limit: int = 4) -> str:
    shown = ", ".join(f"`{path}`" for path in outputs[:limit])
    return f"{shown} and {len(outputs) - limit} more" if len(outputs) > limit else shown


def rows(metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    """The metrics as rows of a table."""
    return [{"metric": name, "value": round(value, 4)} for name, value in sorted(metrics.items())]
