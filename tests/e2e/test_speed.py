"""How long a user waits: fresh processes on one core, with room for a busy machine.

The aims are 1.5 s for building Mask R-CNN R50 from its config and 0.5 s for `detector print-config`; the
limits here are wide, as what else runs on a machine counts too. The best of a few tries is taken.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "configs/mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py"
ROOM = 4.0  # times the aim
BUILD = f"""
import time
import torch, torchvision
start = time.perf_counter()
from detector.build import build_model
from detector.config import load_config
config = load_config({CONFIG!r})
build_model(config.data["model"], training=False, test_cfg=config.data.get("test_cfg"))
print(time.perf_counter() - start)
"""


def run(*command: str) -> str:
    """Standard output of a command of the project on one core."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def soon(seconds: Callable[[], float], aim: float) -> None:
    """The best of three tries is near the aim; the first that is ends the tries."""
    taken: list[float] = []
    while len(taken) < 3 and min(taken, default=aim * ROOM + 1) > aim * ROOM:
        taken.append(seconds())
    assert min(taken) <= aim * ROOM, f"took {min(taken):.2f} s at best, the aim is {aim} s"


@pytest.mark.slow
def test_a_model_is_built_soon() -> None:
    soon(lambda: float(run("-c", BUILD)), 1.5)


@pytest.mark.parametrize("arguments", [["print-config", CONFIG], ["zoo", "list", "--supported"]])
def test_a_command_without_a_model_answers_at_once(arguments: list[str]) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        assert run("-m", "detector", *arguments)
        return time.perf_counter() - start

    soon(seconds, 0.5)
