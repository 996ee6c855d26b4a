"""Charts of an evaluation: precision over recall, a confusion matrix, bars that compare runs.

matplotlib is imported where something is drawn, and never its global state (pyplot).
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detector.errors import DatasetError
from detector.lineage.carriers import stamped_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from detector.evaluation.report import PrCurve

BEST_NAMED = 12  # classes whose curve gets a name; the others are thin
WRITTEN_UP_TO = 25  # classes up to which the cells of a matrix hold their numbers
NAMED_UP_TO = 120  # rows of a matrix up to which each has its name beside it
DOTS = 110  # per inch


def precision_recall(
    mean: Mapping[str, PrCurve], by_class: Mapping[str, Mapping[str, PrCurve]], path: Path, *, title: str = ""
) -> Path:
    """Draw a panel per kind of overlap: the mean curve thick, each class thin, the best ones named.

    Args:
        mean: kind of overlap -> curve.
        by_class: kind of overlap -> class -> curve; those with a mean are drawn.
        path: picture to write.
        title: above everything.

    Raises:
        DatasetError: the place is not writable.
    """
    figure = _figure(width=6.4 * max(1, len(mean)), height=5.4)
    panels = figure.subplots(1, max(1, len(mean)), squeeze=False)[0]
    for axes, (kind, curve) in zip(panels, mean.items(), strict=False):
        classes = by_class.get(kind, {})
        ranked = sorted(classes, key=lambda name: -float(classes[name].precision.mean()))
        for number, name in enumerate(ranked):
            one = classes[name]
            label = f"{name} {one.precision.mean():.2f}" if number < BEST_NAMED else None
            axes.plot(one.recall, one.precision, linewidth=1, alpha=0.75, label=label)
        axes.plot(
            curve.recall,
            curve.precision,
            color="black",
            linewidth=2.5,
            label=f"mean {curve.precision.mean():.2f}",
        )
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=f"{kind}, IoU 0.5")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower left")
    if title:
        figure.suptitle(title)
    return _write(figure, path)


def confusion(matrix: NDArray[Any], class_names: Sequence[str], path: Path, *, title: str = "") -> Path:
    """Draw a confusion matrix, colours by the share of its row.

    Args:
        matrix: (K + 1, K + 1) counts; rows are the truth, columns what was found, the last ones
            the background.
        class_names: K names.
        path: picture to write.
        title: above everything.

    Raises:
        DatasetError: the matrix is not of these classes, or the place is not writable.
    """
    names = [*class_names, "background"]
    if matrix.shape != (len(names), len(names)):
        raise DatasetError(
            f"confusion matrix: found shape {matrix.shape}; expected {(len(names), len(names))}, a row and a "
            "column for every class and for the background. Give the classes that it was made with."
        )
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(30.0, 3.2 + 0.55 * len(names))
    figure = _figure(width=side, height=side)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = max(3.0, 9 - len(names) / 12)
    if len(names) <= NAMED_UP_TO:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
        axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set(xlabel="found", ylabel="truth", title=title)
    if len(class_names) <= WRITTEN_UP_TO:
        _write_cells(axes, matrix, shares, size)
    return _write(figure, path)


def _write_cells(axes: Axes, matrix: NDArray[Any], shares: NDArray[Any], size: float) -> None:
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            ink = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{int(count)}", ha="center", va="center", color=ink, fontsize=size)


def bars(values: Mapping[str, Sequence[float]], labels: Sequence[str], path: Path) -> Path:
    """Draw a panel per metric with one bar per run.

    Args:
        values: metric -> a number per run, NaN for none.
        labels: of the runs.
        path: picture to write.

    Raises:
        DatasetError: the place is not writable.
    """
    columns = min(3, max(1, len(values)))
    rows = math.ceil(max(1, len(values)) / columns)
    figure = _figure(width=max(4.5, 1.1 * len(labels) + 1.5) * columns, height=3.6 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, heights) in zip(panels, values.items(), strict=False):
        drawn = axes.bar(range(len(labels)), np.nan_to_num(list(heights)), color="tab:blue")
        axes.bar_label(drawn, [f"{height:.4g}" for height in heights], fontsize=8)
        axes.set_xticks(range(len(labels)), labels, fontsize=8)
        axes.set_title(name)
        axes.margins(y=0.15)
    for axes in panels[len(values) :]:
        axes.set_visible(False)
    return _write(figure, path)


def _figure(*, width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _write(figure: Figure, path: Path) -> Path:
    """The figure as PNG, with the current stamp."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DOTS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stamped_picture(path, stream.getvalue()))
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot write the picture ({error}); expected a writable place."
        ) from error
    return path
