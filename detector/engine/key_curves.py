"""Single quantities of one or more training logs in one picture, in a file or a window."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.engine.curves import finish, picture
from detector.engine.log_analysis import LogError, RunLog, Series, read_run
from detector.evaluation.files import write_bytes
from detector.naming import close_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (9.0, 6.0)
#: names that the reference's --style takes from another package, and matplotlib's for them
STYLES = {name: f"seaborn-v0_8-{name}" for name in ("dark", "darkgrid", "white", "whitegrid", "ticks")}
WINDOWS = ("QtAgg", "TkAgg", "GTK4Agg", "GTK3Agg", "WxAgg", "MacOSX")


@dataclass(frozen=True)
class Wanted:
    """What is drawn, as the command's arguments.

    Attributes:
        logs: files, or folders of resumed runs.
        keys: names in the logs.
        legend: one label per log and key, all keys of the first log first; by default their names.
        title: above the panel.
        start_epoch: first epoch of metrics that is shown.
        eval_interval: of metrics, only every so many epochs from there on.
        style: 'dark', 'whitegrid' ... or a name of matplotlib's styles.
    """

    logs: Sequence[str | Path]
    keys: Sequence[str] = ("bbox_mAP",)
    legend: Sequence[str] | None = None
    title: str | None = None
    start_epoch: int = 1
    eval_interval: int = 1
    style: str | None = None


def plot(wanted: Wanted, *, out: str | Path | None = None, backend: str | None = None) -> Path | None:
    """Draw ``wanted`` into ``out``; without it into a window, or ``curve.png`` where none can open.

    Args:
        wanted: what.
        out: a file whose ending says the format.
        backend: of matplotlib, for the window.

    Returns:
        the file, None where a window showed the picture.

    Raises:
        LogError: a log lacks a key, a wrong number of labels, an unknown style, an ending that
            matplotlib cannot write.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    curves = _curves(wanted)
    with style.context(_style(wanted.style)):
        if out is None and _opened(backend):
            from matplotlib import pyplot

            draw(pyplot.figure(figsize=SIZE, layout="constrained"), curves, title=wanted.title)
            pyplot.show()
            return None
        figure = Figure(figsize=SIZE, layout="constrained")
        path = Path(out or "curve.png")
        kind, known = path.suffix.lstrip(".").lower(), figure.canvas.get_supported_filetypes()
        if kind not in known:
            raise LogError(
                f"--out {path}: found the ending {path.suffix!r}; expected one of {', '.join(sorted(known))}."
            )
        draw(figure, curves, title=wanted.title)
        return write_bytes(path, picture(figure, kind))


def draw(figure: Figure, curves: Sequence[tuple[str, Series]], *, title: str | None = None) -> None:
    """Draw labelled series, those over epochs and those over iterations in a panel each."""
    units = list(dict.fromkeys(series.unit for _, series in curves))
    figure.set_size_inches(SIZE[0] * (1 + len(units)) / 2, SIZE[1])
    panels = figure.subplots(1, len(units), squeeze=False)[0]
    for axes, unit in zip(panels, units, strict=True):
        for label, series in curves:
            if series.unit == unit:
                marker = "o" if unit == "epoch" else ""
                axes.plot(series.x, series.y, label=label, marker=marker, linewidth=1.2)
        finish(axes, title or "", unit)


def _curves(wanted: Wanted) -> list[tuple[str, Series]]:
    """The series with their labels."""
    runs = [read_run(path) for path in wanted.logs]
    drawn = [(run, _selected(run.series(key), wanted)) for run in runs for key in wanted.keys]
    if wanted.legend is not None and len(wanted.legend) != len(drawn):
        raise LogError(
            f"--legend: found {len(wanted.legend)} labels for {len(drawn)} curves; expected one per log and "
            "key."
        )
    labels = wanted.legend or [_label(run, series, several=len(runs) > 1) for run, series in drawn]
    return [(label, series) for label, (_, series) in zip(labels, drawn, strict=True)]


def _label(run: RunLog, series: Series, *, several: bool) -> str:
    return f"{run.name} {series.name}" if several else series.name


def _selected(series: Series, wanted: Wanted) -> Series:
    """Metrics from an epoch on, only every so many epochs; a series over iterations stays whole."""
    if series.unit != "epoch":
        return series
    start, every = wanted.start_epoch, max(wanted.eval_interval, 1)
    pairs = [
        (x, y) for x, y in zip(series.x, series.y, strict=True) if x >= start and not (x - start) % every
    ]
    if not pairs:
        raise LogError(
            f"{series.name}: found no evaluation at epoch {start} and every {every} from there on; the log "
            f"has epochs {', '.join(f'{x:g}' for x in series.x)}. Change --start-epoch or --eval-interval."
        )
    return Series(series.name, tuple(x for x, _ in pairs), tuple(y for _, y in pairs), series.unit)


def _style(name: str | None) -> Any:
    """Matplotlib's name of a style."""
    from matplotlib import style

    if name is None:
        return "default"
    known = [*STYLES, *style.available]
    if name not in known:
        near = close_names(name, known, count=1)
        raise LogError(
            f"--style: unknown style {name!r}. {f'Did you mean {near[0]}? ' if near else ''}Expected one of "
            f"{', '.join(known)}."
        )
    return STYLES.get(name, name)


def _opened(wanted: str | None) -> bool:
    """Whether pyplot is set to a backend that opens windows here."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    from matplotlib import pyplot

    for name in [wanted] if wanted else WINDOWS:
        with suppress(ImportError, ValueError):
            pyplot.switch_backend(name)
            return name.lower() != "agg"
    return False
