"""The picture of a training's course, ``curves.png`` in the work_dir.

matplotlib is imported where something is drawn, and never its global state (pyplot): training is no place for
that.
"""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detector.engine.log_analysis import RunLog, Series, loss_terms, main_metrics, read_run
from detector.evaluation.files import write_bytes
from detector.lineage.carriers import stamped_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "curves.png"
TERMS, POINTS = 9, 1500


def write_curves(work_dir: Path, *, note: Callable[[str], None] | None = None) -> Path | None:
    """Draw losses, learning rate and metrics of a work_dir's logs into its ``curves.png``.

    A picture is no reason to end a training: whatever goes wrong is told and not raised.

    Args:
        work_dir: of a run, with its ``*.log.json``; the logs of a resumed run are put together.
        note: receives the reason when nothing was written.

    Returns:
        the picture, or None.
    """
    try:
        run = read_run(work_dir)
        path = Path(work_dir) / NAME
        return write_bytes(path, stamped_picture(path, picture(draw_run(run))))
    except Exception as error:
        if note is not None:
            note(f"{NAME} was not written: {type(error).__name__}: {error}")
        return None


def draw_run(run: RunLog) -> Figure:
    """Four panels: the total loss, its terms, the learning rate over iterations, metrics over epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8.5), layout="constrained")
    panels = figure.subplots(2, 2)
    figure.suptitle(run.name)
    keys = run.names()
    _draw_total(panels[0][0], run.series("loss") if "loss" in keys else None)
    _draw_terms(panels[0][1], [run.series(key) for key in loss_terms(run)])
    _draw_rate(panels[1][0], run.series("lr") if "lr" in keys else None)
    _draw_metrics(panels[1][1], [run.series(key) for key in main_metrics(run)])
    return figure


def _draw_total(axes: Axes, series: Series | None) -> None:
    """The total, every line of the log lightly and smoothed over it."""
    if series is None or not series.y:
        _empty(axes, "no loss in the log")
        return
    thin = _thinned(series)
    axes.plot(thin.x, thin.y, color="tab:blue", alpha=0.3, linewidth=0.9, label="logged")
    axes.plot(thin.x, _smoothed(thin.y), color="tab:blue", linewidth=1.8, marker=_dot(thin), label="smoothed")
    _scale(axes, thin.y)
    finish(axes, f"total loss, last {series.y[-1]:.4g}", series.unit)


def _draw_terms(axes: Axes, terms: list[Series]) -> None:
    """The terms, smoothed, the largest ones; the others are named as a number."""
    terms = [series for series in terms if series.y]
    if not terms:
        _empty(axes, "no terms of a loss in the log")
        return
    ranked = sorted(terms, key=lambda series: -statistics.fmean(series.y))
    shown = [series for series in terms if series in ranked[:TERMS]]
    for number, series in enumerate(shown):
        thin, color = _thinned(series), f"C{number}"
        axes.plot(thin.x, thin.y, color=color, alpha=0.2, linewidth=0.7)
        axes.plot(thin.x, _smoothed(thin.y), color=color, linewidth=1.5, marker=_dot(thin), label=series.name)
    _scale(axes, [y for series in shown for y in series.y])
    left_out = f", the {TERMS} largest of {len(terms)}" if len(terms) > TERMS else ""
    finish(axes, f"terms of the loss{left_out}", terms[0].unit)


def _draw_rate(axes: Axes, series: Series | None) -> None:
    if series is None or not series.y:
        _empty(axes, "no learning rate in the log")
        return
    axes.plot(series.x, series.y, color="tab:green", linewidth=1.5, marker=_dot(series))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes.set_ylim(bottom=0)
    finish(axes, "learning rate", series.unit)


def _dot(series: Series) -> str:
    """A mark for a curve of one point, which has no line."""
    return "o" if len(series.y) == 1 else ""


def _draw_metrics(axes: Axes, metrics: list[Series]) -> None:
    metrics = [series for series in metrics if series.y]
    if not metrics:
        _empty(axes, "no evaluation yet")
        return
    for series in metrics:
        best = max(range(len(series.y)), key=lambda i: series.y[i])
        label = f"{series.name}, best {series.y[best]:.3f} at {series.unit} {series.x[best]:g}"
        axes.plot(series.x, series.y, marker="o", markersize=4, linewidth=1.5, label=label)
    axes.set_ylim(bottom=0)
    finish(axes, "metrics of the evaluations", metrics[0].unit)


def finish(axes: Axes, title: str, unit: str) -> None:
    """Title, axis, grid, and a legend where there are labels."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize=11)
    axes.set_xlabel(unit)
    axes.grid(visible=True, alpha=0.3)
    if unit == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=9)


def _empty(axes: Axes, reason: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, reason, ha="center", va="center", color="gray", transform=axes.transAxes)


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis where the first values would press the rest flat."""
    positive = [value for value in values if value > 0]
    if len(positive) == len(values) and max(positive) > 12 * statistics.median(positive):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=min(0.0, *values))


def _smoothed(values: Sequence[float]) -> list[float]:
    """Exponential means over some fortieth of the values, from both sides, so that the line does not lag."""
    keep = 1 - 1 / max(len(values) / 40, 1.5)
    ahead, back = _means(values, keep), _means(values[::-1], keep)[::-1]
    return [(a + b) / 2 for a, b in zip(ahead, back, strict=True)]


def _means(values: Sequence[float], keep: float) -> list[float]:
    """Exponential means, free of the start's pull to zero."""
    mean = weight = 0.0
    smooth = []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        smooth.append(mean / weight)
    return smooth


def _thinned(series: Series) -> Series:
    """At most ``POINTS`` points, each the mean of its neighbours."""
    step = math.ceil(len(series.x) / POINTS)
    if step <= 1:
        return series
    starts = range(0, len(series.x), step)
    means = [tuple(statistics.fmean(values[i : i + step]) for i in starts) for values in (series.x, series.y)]
    return Series(series.name, means[0], means[1], series.unit)


def picture(figure: Figure, kind: str = "png") -> bytes:
    """A figure as the bytes of a file of a format that matplotlib writes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=90)
    return buffer.getvalue()
