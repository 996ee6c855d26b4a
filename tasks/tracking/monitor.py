"""Measurements of the machine during a training, by MLflow's own monitors, written to a file first."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks import spool

EVERY = 10.0  # seconds between two measurements, MLflow's own default


def measure(work_dir: Path, ended: threading.Event) -> None:
    """Append a line to the file every few seconds, and one at the end; nothing here may fail a training."""
    path = work_dir / spool.SYSTEM_FILE
    with suppress(Exception):
        step = spool.last_system_step(path)
        monitors = _monitors()
        while True:
            last = ended.wait(EVERY)
            step += 1
            _append(path, step, monitors)
            if last:
                return


def _monitors() -> list[Any]:
    """CPU and memory; GPUs where there are some and their library is installed."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

    found = [CPUMonitor()]
    with suppress(ImportError, RuntimeError):
        found.append(GPUMonitor())
    for one in found:  # the first measurement of a CPU's load says what was before
        one.collect_metrics()
        one.clear_metrics()
    return found


def _append(path: Path, step: int, monitors: list[Any]) -> None:
    values: dict[str, float] = {}
    for one in monitors:
        one.collect_metrics()
        values.update(one.aggregate_metrics())
        one.clear_metrics()
    record = {"step": step, "timestamp": int(time.time() * 1000), **values}
    with suppress(OSError), path.open("a") as file:  # a full disk costs a measurement
        file.write(json.dumps(record) + "\n")
