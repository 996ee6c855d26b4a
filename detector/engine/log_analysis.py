"""Reads training logs, ours and MMDetection's own: which series they hold, how long steps took, how it went.

A run that was resumed has several ``<timestamp>.log.json`` in one folder. Together they are one run: what a
later file did again replaces what the earlier one had done. Only the standard library is used here.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from detector.errors import DetectorError
from detector.naming import close_names

Record = dict[str, Any]
NO_SERIES = ("mode", "epoch", "iter")


class LogError(DetectorError):
    """A training log is missing, unreadable, or lacks what was asked for."""


@dataclass(frozen=True)
class Series:
    """One quantity over a run.

    Attributes:
        name: as in the log.
        x: places, rising: epochs from 1, or iterations of the whole run from 1.
        y: values, all finite.
        unit: 'epoch' or 'iteration', of ``x``.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    unit: str


@dataclass(frozen=True)
class RunLog:
    """The lines of one run in order, those without an epoch (the run's facts) left out.

    Attributes:
        name: of the file or folder.
        records: train and val lines, each step once.
    """

    name: str
    records: tuple[Record, ...]

    @property
    def by_epoch(self) -> bool:
        """Whether ``iter`` of the train lines starts anew in every epoch."""
        train = [r for r in self.records if r["mode"] == "train"]
        turns = [(a, b) for a, b in pairwise(train) if b["epoch"] > a["epoch"]]
        return not turns or any(b["iter"] <= a["iter"] for a, b in turns)

    @property
    def epoch_length(self) -> int:
        """Iterations of an epoch as far as lines tell: the highest ``iter``; 0 where it never starts anew."""
        counts = [r["iter"] for r in self.records if r["mode"] == "train"]
        return max(counts, default=0) if self.by_epoch else 0

    def names(self) -> list[str]:
        """Names of all numbers in the lines, in order of first appearance."""
        found: dict[str, None] = {}
        for record in self.records:
            found.update(dict.fromkeys(k for k, v in record.items() if _is_number(v) and k not in NO_SERIES))
        return list(found)

    def series(self, key: str) -> Series:
        """One quantity: metrics of evaluations over epochs, all else over iterations.

        Values that are not finite are left out. An iteration-based run's metrics stand over iterations.

        Raises:
            LogError: the log lacks the key.
        """
        mode = "train" if any(key in r for r in self.records if r["mode"] == "train") else "val"
        rows = [r for r in self.records if r["mode"] == mode and _is_number(r.get(key))]
        if not rows:
            raise LogError(_lacking(self, key))
        over_epochs = mode == "val" and self.by_epoch
        length = self.epoch_length
        places = [r["epoch"] if over_epochs else (r["epoch"] - 1) * length + r["iter"] for r in rows]
        pairs = [
            (float(x), float(r[key])) for x, r in zip(places, rows, strict=True) if math.isfinite(r[key])
        ]
        return Series(
            name=key,
            x=tuple(x for x, _ in pairs),
            y=tuple(y for _, y in pairs),
            unit="epoch" if over_epochs else "iteration",
        )


@dataclass(frozen=True)
class TrainTimes:
    """Seconds of a step, per epoch and in all.

    Attributes:
        epochs: epoch -> mean seconds.
        spread: standard deviation of the epochs' means.
        mean: over all values that count.
    """

    epochs: Mapping[int, float]
    spread: float
    mean: float


def read_run(path: str | Path) -> RunLog:
    """The log of a run.

    Args:
        path: a ``.log.json`` file, or a folder: all its logs are one run, in the order of their names.

    Raises:
        LogError: nothing there, or a line that is no JSON object (the last one may be cut off).
    """
    path = Path(path)
    files = sorted(path.glob("*.log.json")) if path.is_dir() else [path]
    if not files:
        raise LogError(
            f"{path}: found no *.log.json in this folder; expected the work_dir of a training. Give the file."
        )
    merged: list[Record] = []
    for file in files:
        merged = _continued(merged, _read_lines(file))
    if not merged:
        raise LogError(
            f"{path}: found no train or val lines (of lines with an epoch); expected the .log.json of a "
            "training that has logged once. Wait for its first log line, or give another file."
        )
    name = path.name.removesuffix(".json").removesuffix(".log") if path.is_file() else path.resolve().name
    return RunLog(name=name, records=tuple(merged))


def train_times(run: RunLog, *, include_outliers: bool = False) -> TrainTimes:
    """How long steps took.

    Args:
        run: the log.
        include_outliers: count the first line of each epoch too, in which loaders start and caches fill.

    Raises:
        LogError: no line has a time.
    """
    values: dict[int, list[float]] = {}
    for record in run.records:
        if record["mode"] == "train" and _is_number(record.get("time")):
            values.setdefault(record["epoch"], []).append(float(record["time"]))
    if not include_outliers and any(len(times) > 1 for times in values.values()):
        values = {epoch: times[1:] for epoch, times in values.items() if len(times) > 1}
    if not values:
        raise LogError(_lacking(run, "time"))
    means = {epoch: statistics.fmean(times) for epoch, times in values.items()}
    every = [time for times in values.values() for time in times]
    return TrainTimes(epochs=means, spread=statistics.pstdev(means.values()), mean=statistics.fmean(every))


def times_text(run: RunLog, times: TrainTimes) -> list[str]:
    """The facts of ``train_times`` in lines."""
    slowest = max(times.epochs, key=lambda epoch: times.epochs[epoch])
    fastest = min(times.epochs, key=lambda epoch: times.epochs[epoch])
    return [
        f"{run.name}:",
        f"  slowest epoch {slowest}: {times.epochs[slowest]:.4f} s/iter on average",
        f"  fastest epoch {fastest}: {times.epochs[fastest]:.4f} s/iter on average",
        f"  standard deviation over epochs: {times.spread:.4f} s/iter",
        f"  average: {times.mean:.4f} s/iter",
    ]


def summary_text(run: RunLog) -> list[str]:
    """How a run went: how far, last losses, best metrics, time of a step and of waiting for data."""
    train = [r for r in run.records if r["mode"] == "train"]
    lines = [f"{run.name}:"]
    if train:
        last = train[-1]
        terms = [f"{k} {v:.4f}" for k, v in last.items() if "loss" in k and k != "loss" and _is_number(v)]
        lines.append(
            f"  last line: epoch {last['epoch']}, iteration {last['iter']}, lr {last.get('lr', 0):g}"
        )
        if _is_number(last.get("loss")):
            lines.append(f"  loss {last['loss']:.4f}" + (f" ({', '.join(terms)})" if terms else ""))
    for key in main_metrics(run):
        found = run.series(key)
        if found.y:
            best = max(range(len(found.y)), key=lambda i: found.y[i])
            lines.append(
                f"  {key}: best {found.y[best]:.4f} at {found.unit} {found.x[best]:g}, last {found.y[-1]:.4f}"
            )
    timed = [r for r in train if _is_number(r.get("time"))]
    if timed:
        mean = statistics.fmean(r["time"] for r in timed)
        waits = statistics.fmean(float(r.get("data_time", 0.0)) for r in timed)
        share = waits / mean if mean else 0.0
        lines.append(f"  {mean:.4f} s/iter, of which {waits:.4f} ({share:.0%}) waiting for data")
    return lines


def main_metrics(run: RunLog, *, most: int = 6) -> list[str]:
    """The metrics of a run's evaluations that stand for it: AP of boxes and masks, at IoU 0.5, mAP, PQ, AR.

    Args:
        run: the log.
        most: how many at most.
    """
    val = [r for r in run.records if r["mode"] == "val"]
    known = dict.fromkeys(
        k for r in val for k, v in r.items() if _is_number(v) and k not in (*NO_SERIES, "lr")
    )
    wanted = ("_mAP", "mAP", "_mAP_50", "AP50", "PQ", "_AP", "AR@1000", "AR@100")
    ranked = [
        k for ending in wanted for k in known if k == ending or (ending[0] == "_" and k.endswith(ending))
    ]
    return list(dict.fromkeys([*ranked, *(() if ranked else known)]))[:most]


def loss_terms(run: RunLog) -> list[str]:
    """Names of the loss's terms, the total left out, in order of first appearance."""
    return [key for key in run.names() if "loss" in key and key != "loss"]


def _read_lines(file: Path) -> list[Record]:
    """Train and val lines of one file."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LogError(
            f"{file}: cannot be read as a training log ({error}); expected a .log.json. Check the path."
        ) from error
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines):  # a run that was killed while it wrote, or one that writes now
                continue
            raise LogError(
                f"{file}, line {number}: found no JSON object ({error}); expected one per line, as the "
                ".log.json of a training has. The .log beside it is for reading, not for this command."
            ) from error
        if isinstance(record, dict) and "epoch" in record:
            records.append(record if "mode" in record else {**record, "mode": "train"})
    return [r for r in records if r["mode"] in ("train", "val")]


def _continued(earlier: Sequence[Record], later: Sequence[Record]) -> list[Record]:
    """Lines of a run and of its continuation, where the continuation's count for what both did."""
    start = next((_place(r) for r in later if r["mode"] == "train"), None)
    kept = list(earlier)
    if start is not None:
        redone = (i for i, r in enumerate(kept) if r["mode"] == "train" and _place(r) >= start)
        kept = kept[: next(redone, len(kept))]
    first = later[0] if later else None
    if first is not None and first["mode"] == "val":
        while kept and kept[-1]["mode"] == "val" and _place(kept[-1]) == _place(first):
            kept.pop()
    return [*kept, *later]


def _place(record: Mapping[str, Any]) -> tuple[int, int]:
    return int(record["epoch"]), int(record["iter"])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _lacking(run: RunLog, key: str) -> str:
    """The error text for a key that a log lacks."""
    known = run.names()
    near = close_names(key, known, count=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    validated = any(r["mode"] == "val" for r in run.records)
    without = "" if validated else " The run has no evaluation yet (or --no-validate was given)."
    return f"{run.name}: has no values of {key!r}. {hint}It has: {', '.join(known)}.{without}"
