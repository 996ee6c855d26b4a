"""Short versions of the endurance scripts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detector.engine.checkpoints import RunCheckpoints
from tests.endurance import full_disk
from tests.endurance.terms import LIMIT_S, stop_often

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1000)  # seconds on a quiet machine, but a training among others takes ten times as long
def test_killed_anywhere_and_resumed_it_is_the_run_that_was_not_killed() -> None:
    command = [sys.executable, "-m", "tests.endurance.kills", "--points", "10", "--seed", "5"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # of a process of its own, since it forks
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "equal to the uninterrupted run: 10/10" in done.stdout


@pytest.mark.slow
def test_killed_while_writing_no_checkpoint_is_lost() -> None:
    command = [sys.executable, "-m", "tests.endurance.writes", "--kills", "10", "--mib", "8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "unloadable latest, lost or damaged checkpoints: 0" in done.stdout


def test_a_full_disk_loses_no_checkpoint(tmp_path: Path) -> None:
    try:
        faults = full_disk.fill_disk(tmp_path / "disk", mib=1.0)
    except PermissionError as error:
        pytest.skip(str(error))
    assert faults == []


@pytest.mark.parametrize("step", range(full_disk.OFFSETS))
def test_a_file_that_may_not_grow_loses_no_checkpoint(tmp_path: Path, step: int) -> None:
    run = RunCheckpoints(tmp_path, max_keep=2)
    run.save_best("mAP", 0.5, "iter_1.pth", full_disk.payload(1, 0.5))
    run.save("iter_1.pth", full_disk.payload(1, 0.5))
    assert (
        full_disk.full_disk_faults(tmp_path, (step + 0.5) / full_disk.OFFSETS, 2, 0.5, full_disk.largest_file)
        == []
    )


@pytest.mark.slow
def test_a_terminated_group_saves_and_is_gone(tmp_path: Path) -> None:
    stops = stop_often(tmp_path, rounds=2, seed=0)
    assert [stop.faults for stop in stops] == [[], []]
    assert max(stop.seconds for stop in stops) < LIMIT_S
    assert [stop.code for stop in stops] == [143, 143]
    assert 0 < stops[0].iteration < stops[1].iteration
