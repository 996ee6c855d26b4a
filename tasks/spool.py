"""The training log as trackers read it: rows on one step axis, read on from where the last reading ended.

The engine appends MMDetection's ``<timestamp>.log.json`` files to the work folder: one meta line, then a line
per logging interval and per validation. ``iter`` restarts every epoch there unless the run counts
iterations; here ``step`` counts iterations from the first epoch on. Beside them lies SYSTEM_FILE, a line per
measurement of the machine.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

PATTERN = "*.log.json"
SYSTEM_FILE = "system_metrics.jsonl"
ITERATIONS = "IterBasedRunner"  # the runner, in the config that a meta line holds
NOT_METRICS = {"mode", "epoch", "iter", "step", "timestamp", "max_iters", "iters_per_epoch"}


@dataclass(frozen=True)
class Row:
    """One line of the log.

    Attributes:
        mode: 'train' or 'val'.
        epoch: 1-based.
        step: iterations since the start of the training.
        timestamp: milliseconds since 1970, the same whenever the line is read.
        metrics: every number of the line.
    """

    mode: str
    epoch: int
    step: int
    timestamp: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Point:
    """One number as MLflow keeps it; ``timestamp`` in milliseconds since 1970."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass
class Position:
    """How far a work folder was read; survives in JSON.

    Attributes:
        file: log file that was read last.
        offset: bytes of it that were read.
        clock: milliseconds since 1970 of the last line read.
        epoch_length: iterations per epoch, 0 while unknown.
        last: mode -> last step seen, so that a resumed training's repeated lines count once.
        step: iteration of the last training line.
        by_iteration: whether the run counts iterations, not epochs.
    """

    file: str = ""
    offset: int = 0
    clock: int = 0
    epoch_length: int = 0
    last: dict[str, int] = field(default_factory=dict)
    step: int = 0
    by_iteration: bool = False


def read(work_dir: Path, position: Position) -> list[Row]:
    """The rows written since ``position``, which moves on; a line still being written waits."""
    rows: list[Row] = []
    for path in sorted(work_dir.glob(PATTERN)):
        if path.name < position.file:
            continue
        if path.name != position.file:
            position.file, position.offset, position.clock = path.name, 0, _start(path)
        with path.open("rb") as file:
            file.seek(position.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                position.offset += len(line)
                row = _row(line, position)
                if row is not None:
                    rows.append(row)
    return rows


def _row(line: bytes, position: Position) -> Row | None:
    """The row of one line, or None for the meta line, a damaged line or one that was already seen."""
    try:
        data = json.loads(line)
        mode, epoch, iteration = data["mode"], int(data["epoch"]), int(data.get("iter", 0))
    except (ValueError, KeyError, TypeError):
        _learn(line, position)
        return None
    _advance(data, mode, epoch, iteration, position)
    step = position.step if mode == "train" else _evaluated(epoch, iteration, position)
    if step <= position.last.get(mode, 0):
        return None
    position.last[mode] = step
    metrics = {
        key: float(value) for key, value in data.items() if key not in NOT_METRICS and _is_number(value)
    }
    return Row(mode=mode, epoch=epoch, step=step, timestamp=position.clock, metrics=metrics)


def _evaluated(epoch: int, iteration: int, position: Position) -> int:
    """The iteration after which an evaluation took place; its line in a run by epochs counts batches."""
    if position.by_iteration:
        return iteration
    return epoch * position.epoch_length or position.step


def _advance(data: dict[str, Any], mode: str, epoch: int, iteration: int, position: Position) -> None:
    """Move the step and the clock of ``position`` over one line."""
    if mode != "train":
        position.clock += 1
        return
    if "iters_per_epoch" in data:
        position.epoch_length = int(data["iters_per_epoch"])
    elif epoch == 1:
        position.epoch_length = max(position.epoch_length, iteration)
    before = position.step
    earlier = 0 if position.by_iteration else (epoch - 1) * position.epoch_length
    position.step = int(data["step"]) if "step" in data else earlier + iteration
    seconds = data.get("time", 0.0)
    if "timestamp" in data:
        position.clock = int(float(data["timestamp"]) * 1000)
    elif _is_number(seconds) and math.isfinite(seconds):
        position.clock += max(1, int(1000 * seconds * max(1, position.step - before)))


def _learn(line: bytes, position: Position) -> None:
    """Take what the run counts, and the length of an epoch, from the meta line, if it says them."""
    try:
        meta = json.loads(line)
    except ValueError:
        return
    if not isinstance(meta, dict):
        return
    if isinstance(meta.get("iters_per_epoch"), int):
        position.epoch_length = meta["iters_per_epoch"]
    position.by_iteration = meta.get("by_epoch") is False or ITERATIONS in str(meta.get("config", ""))


def _start(path: Path) -> int:
    """The time in a log's name, in milliseconds since 1970."""
    try:
        return int(datetime.strptime(path.name.split(".")[0], "%Y%m%d_%H%M%S").timestamp() * 1000)
    except ValueError:
        return 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def points(row: Row) -> list[Point]:
    """The numbers of a line; a training line gives its epoch too."""
    named = {f"{row.mode}/{key}": value for key, value in row.metrics.items()}
    if row.mode == "train":
        named["epoch"] = float(row.epoch)
    return [Point(key, value, row.timestamp, row.step) for key, value in named.items()]


def read_system(work_dir: Path, offset: int) -> tuple[list[Point], int]:
    """Measurements of the machine beyond a byte offset, and the next one; an unfinished line waits."""
    found: list[Point] = []
    for line in _whole_lines(work_dir / SYSTEM_FILE, offset):
        offset += len(line)
        try:
            data = json.loads(line)
            step, moment = int(data.pop("step")), int(data.pop("timestamp"))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        values = {key: float(value) for key, value in data.items() if _is_number(value)}
        found += [Point(f"system/{key}", value, moment, step) for key, value in values.items()]
    return found, offset


def last_system_step(path: Path) -> int:
    """The number of the last measurement, 0 before the first."""
    found = [point.step for point in read_system(path.parent, 0)[0]]
    return max(found, default=0)


def _whole_lines(path: Path, offset: int) -> list[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return [line for line in file if line.endswith(b"\n")]
    except OSError:
        return []


def loss_table(rows: Iterable[Row]) -> str:
    """The training rows as CSV: step, epoch, then every loss, accuracy and learning rate that occurs."""
    train = [row for row in rows if row.mode == "train"]
    columns = list(dict.fromkeys(_curves(train)))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["step", "epoch", *columns])
    writer.writerows([row.step, row.epoch, *(row.metrics.get(name, "") for name in columns)] for row in train)
    return out.getvalue()


def _curves(rows: Iterable[Row]) -> Iterator[str]:
    yield "loss"
    for row in rows:
        yield from (name for name in row.metrics if "loss" in name or name in ("lr", "acc", "grad_norm"))
