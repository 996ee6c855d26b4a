"""The training log: ``<timestamp>.log.json``, which trackers read, and ``<timestamp>.log`` for people.

The field names, the averaging over a window and the rounding are the reference's (mmcv 1.7.2
``hooks/logger/text.py``), so its analysis
scripts read these files. One deviation: an epoch shorter than the log interval still gets one train line.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy
import torch
import torchvision

Value = float | int | str


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

    def meta(self, meta: Mapping[str, Any]) -> None:
        """First line of the spool: the run's facts."""
        self._append_json(meta)

    def text(self, message: str) -> None:
        """One line for people, in the file and on the terminal."""
        if not self._enabled:
            return
        now = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime())
        _append(self.text_path, f"{now} - detector - INFO - {message}\n")
        if self._show is not None:
            self._show(message)

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
            _append(
                self.json_path, json.dumps({key: _rounded(value) for key, value in record.items()}) + "\n"
            )


def _rounded(value: Any) -> Any:
    """Floats to 5 decimals, as the reference."""
    return round(value, 5) if isinstance(value, float) else value


def _append(path: Path, line: str) -> None:
    """Add one line in one write."""
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
