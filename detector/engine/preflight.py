"""What is checked before a model runs: data, classes, head, checkpoint, disk and memory, in seconds.

No image is decoded: folders are listed and a few headers read. ``detector doctor`` shows every check
(``preflight_doctor.py``); training and testing run those that their own set-up does not make, on the data set
they have built, stop at problems and log warnings once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from detector.config import Config
from detector.data.datasets.source import SampleSource
from detector.engine import distributed
from detector.engine.preflight_data import check_dataset, check_truth
from detector.engine.preflight_machine import check_disk, check_results, check_versions
from detector.engine.preflight_memory import check_memory
from detector.engine.preflight_model import check_wiring, outline
from detector.engine.preflight_pipeline import check_pipelines
from detector.engine.preflight_result import settle

logger = logging.getLogger(__name__)


def before_training(
    config: Config,
    dataset: SampleSource,
    *,
    work_dir: Path,
    device: torch.device,
    note: Callable[[str], None],
) -> None:
    """Check what a training run does not check itself while it is set up.

    Args:
        config: the run's.
        dataset: its training data, built.
        work_dir: where checkpoints go.
        device: where the model will be.
        note: takes one line per warning.

    Raises:
        DetectorError: a problem; all of them are named.
    """
    model = outline(config.data)
    checks = [
        *check_dataset(dataset, "train", listed=False),
        *check_wiring(config.data, dataset),
        *check_pipelines(config.data),
        *check_disk(config.data, model, work_dir),
        *check_memory(config.data, dataset, model, device),
        check_versions(),
    ]
    settle(checks, str(config.path), note=note)


def before_evaluation(config: Config, dataset: Any, *, note: Callable[[str], None]) -> None:
    """Check the data that a training run will be evaluated on, beyond ``check_evaluation``.

    Raises:
        DetectorError: a problem; all of them are named.
    """
    checks = [*check_dataset(dataset, "val", listed=False), *check_truth(config.data, dataset)]
    settle(checks, str(config.path), note=note)


def before_testing(config: Config, dataset: Any, *, out: str | Path | None = None) -> None:
    """Check what a test run does not check itself before its first image; warnings go to the log.

    Args:
        config: the run's.
        dataset: what it runs on, built.
        out: results file that will be written.

    Raises:
        DetectorError: a problem; all of them are named.
    """
    checks = [
        *check_dataset(dataset, "test", listed=False),
        *check_results(config.data, dataset, out),
        check_versions(),
    ]
    main = distributed.rank() == 0
    settle(checks, str(config.path), note=lambda line: logger.warning("%s", line) if main else None)
