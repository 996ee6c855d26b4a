"""The training log: ``<timestamp>.log.json``, which trackers read, and ``<timestamp>.log`` for people.

The field names, the averaging over a window and the rounding are the reference's (mmcv 1.7.2
``hooks/logger/text.py``), so its analysis
scripts read these files. One deviation: an epoch shorter than the log interval still gets one train line.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy
import psutil
import torch
import torchvision

Value = float | int | str
LINES_KEPT = 10_000  # in memory, of a log that cannot be written


def timestamp() -> str:
    """Name part shared by the log files of one run: local time as year, month, day, hour, minute, second."""
    return time.strftime("%Y%m%d_%H%M%S", time.localtime())


def env_info() -> str:
    """Versions and devices that can change numbers, one per line."""
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    facts = {
        "platform": platform.platform(),
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "TorchVision": torchvision.__version__,
        "NumPy": numpy.__version__,
        "CUDA": torch.version.cuda or "none",
        "GPU": device,
        "threads": torch.get_num_threads(),
    }
    return "\n".join(f"{name}: {value}" for name, value in facts.items())


class Window:
    """Weighted means of what was recorded since the last log line, in order of first appearance."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}
        self.steps = 0

    def add(self, values: Mapping[str, float], weight: float = 1) -> None:
        """Record ``values``, e.g. losses of a batch with its number of images as the weight."""
        for name, value in values.items():
            entry = self._sums.setdefault(name, [0.0, 0.0])
            entry[0] += value * weight
            entry[1] += weight

    def means(self) -> dict[str, float]:
        """Mean of every name."""
        return {name: total / weight for name, (total, weight) in self._sums.items()}

    def clear(self) -> None:
        """Start a new window."""
        self._sums = {}
        self.steps = 0

    def state(self) -> dict[str, Any]:
        """For a checkpoint in the middle of a window."""
        return {"steps": self.steps, "sums": {name: list(entry) for name, entry in self._sums.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue the window that ``state`` came from."""
        self.steps = int(state["steps"])
        self._sums = {name: [float(x) for x in entry] for name, entry in state["sums"].items()}


class DataWaitAdvice:
    """Names the one setting to change when steps wait for data; the first window of a run does not count.

    Args:
        workers: ``data.workers_per_gpu`` of the run.
        cores: of this machine, per process of the run on it.
        idle: share of the machine's cores without work since the call before; measured by default.
    """

    LIMIT = 0.2
    IDLE = 0.5

    def __init__(self, workers: int, cores: int, *, idle: Callable[[], float] | None = None) -> None:
        self._workers, self._cores = workers, max(cores, 1)
        self._idle = idle or (lambda: 1 - psutil.cpu_percent(interval=None) / 100)
        self._said = ""
        self._windows = 0

    def line(self, shares: Mapping[str, float]) -> str | None:
        """The advice for a window, None where steps do not wait or the same setting was named before.

        Args:
            shares: mean seconds of 'data' and of the other parts of a step.
        """
        idle = self._idle()  # each window measures from the one before
        self._windows += 1
        whole = sum(shares.values())
        wait = shares.get("data", 0.0)
        if self._windows == 1 or whole <= 0 or wait <= self.LIMIT * whole:
            return None
        setting, advice = self._advice(whole, wait, idle)
        if setting == self._said:
            return None
        self._said = setting
        return f"{wait / whole:.0%} of the time steps wait for data (over {self.LIMIT:.0%}): {advice}"

    def _advice(self, whole: float, wait: float, idle: float) -> tuple[str, str]:
        """Setting, and what to do with it.

        N workers that deliver a batch in ``whole`` seconds are too few by the factor whole / (whole - wait).
        """
        if self._workers < self._cores:
            busy = max(whole - wait, 1e-9)
            needed = math.ceil(wait / busy) if self._workers == 0 else math.ceil(self._workers * whole / busy)
            target = min(max(needed, self._workers + 1), self._cores)
            found = f"found {self._workers}, {self._cores} cores"
            return "workers", f"raise data.workers_per_gpu ({found}) to {target}"
        if idle > self.IDLE:
            return "storage", (
                f"data.workers_per_gpu={self._workers} fills the {self._cores} cores, yet {idle:.0%} of them "
                "is idle, so the storage is slow: move the images (data.train.img_prefix) to a local disk"
            )
        return "img_scale", (
            f"data.workers_per_gpu={self._workers} fills the {self._cores} cores, which are busy: lower "
            "img_scale of Resize in data.train.pipeline, or store the images no larger than that"
        )


class TrainLog:
    """Both log files of one run; on other ranks than 0 nothing is written.

    Args:
        work_dir: folder of the files.
        stamp: shared name part.
        enabled: False on every rank but 0.
        show: receives each line for the terminal.
    """

    def __init__(
        self, work_dir: Path, stamp: str, *, enabled: bool = True, show: Callable[[str], None] | None = None
    ) -> None:
        self.json_path = work_dir / f"{stamp}.log.json"
        self.text_path = work_dir / f"{stamp}.log"
        self._enabled = enabled
        self._show = show
        self._unwritten: list[tuple[Path, str]] = []

    def meta(self, meta: Mapping[str, Any]) -> None:
        """First line of the spool: the run's facts."""
        self._append_json(meta)

    def text(self, message: str) -> None:
        """One line for people, in the file and on the terminal."""
        if not self._enabled:
            return
        now = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime())
        self._append(self.text_path, f"{now} - detector - INFO - {message}\n")
        self._tell(message)

    def train(
        self,
        head: Mapping[str, Value],
        means: Mapping[str, float],
        *,
        eta_s: float,
        total: str,
        shares: str = "",
    ) -> None:
        """One train line.

        Args:
            head: mode, epoch, iter, lr and, on a GPU, memory in MB.
            means: the window's means: data_time, losses ..., time.
            eta_s: seconds left of the run.
            total: what ``iter`` counts up to.
            shares: where the time went, for the text line.
        """
        self._append_json({**head, **means})
        parts = [f"lr: {head['lr']:.3e}", f"eta: {timedelta(seconds=int(eta_s))}"]
        parts += [f"{name}: {means[name]:.3f}" for name in ("time", "data_time") if name in means]
        parts += [f"memory: {head['memory']}"] if "memory" in head else []
        parts += [
            f"{name}: {value:.4f}" for name, value in means.items() if name not in ("time", "data_time")
        ]
        parts += [shares] if shares else []
        self.text(f"Epoch [{head['epoch']}][{head['iter']}/{total}]\t" + ", ".join(parts))

    def val(self, head: Mapping[str, Value], metrics: Mapping[str, Value]) -> None:
        """One validation line: mode, epoch, iter, lr, then the metrics."""
        self._append_json({**head, **metrics})
        parts = [
            f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}"
            for name, value in metrics.items()
        ]
        self.text(f"Epoch(val) [{head['epoch']}][{head['iter']}]\t" + ", ".join(parts))

    def _append_json(self, record: Mapping[str, Any]) -> None:
        if self._enabled:
            rounded = {key: _rounded(value) for key, value in record.items()}
            self._append(self.json_path, json.dumps(rounded) + "\n")

    def _append(self, path: Path, line: str) -> None:
        """Add a line; on a full disk keep it, say so once, and write it when there is room again."""
        self._unwritten.append((path, line))
        try:
            while self._unwritten:
                _append(*self._unwritten[0])
                self._unwritten.pop(0)
        except OSError as error:
            if len(self._unwritten) == 1:
                reason = error.strerror or error
                self._tell(f"{path} cannot be written: {reason}; its lines are kept until it can")
            del self._unwritten[:-LINES_KEPT]

    def _tell(self, message: str) -> None:
        """Show a line on the terminal, which may be a file on the same full disk."""
        if self._show is not None:
            with contextlib.suppress(OSError):
                self._show(message)


def _rounded(value: Any) -> Any:
    """Floats to 5 decimals, as the reference."""
    return round(value, 5) if isinstance(value, float) else value


def _append(path: Path, line: str) -> None:
    """Add one line whole, or nothing of it."""
    with path.open("ab") as file:
        size = file.tell()
        try:
            file.write(line.encode())
            file.flush()
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise
