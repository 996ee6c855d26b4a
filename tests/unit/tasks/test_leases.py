from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks import leases

RUN = "0c21a97d-bbae-4310-895d-de23e252d219"
HOLDER = f"from tasks import leases; print(leases.hold('{RUN}'), flush=True); input()"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(leases, "_held", {})
    return tmp_path


@pytest.fixture
def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "True"
    return process


def test_lease_is_held_as_long_as_its_process_lives(holder: subprocess.Popen[str]) -> None:
    assert leases.held(RUN)
    assert leases.alive(RUN)
    assert not leases.hold(RUN)
    assert leases.left() == []
    holder.communicate("\n")
    assert not leases.held(RUN)
    assert leases.left() == []
    assert list(leases.FOLDER.glob("*")) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_process_leaves_its_lease_behind(holder: subprocess.Popen[str], number: int) -> None:
    holder.send_signal(number)
    holder.wait()
    assert not leases.alive(RUN)
    assert leases.left() == [RUN]
    leases.drop(RUN)
    assert leases.left() == []


def test_lease_that_is_held_is_not_dropped(holder: subprocess.Popen[str]) -> None:
    leases.drop(RUN)
    assert leases.held(RUN)
    holder.communicate("\n")


def test_two_threads_of_one_process_share_a_lease() -> None:
    assert leases.hold(RUN)
    assert leases.hold(RUN)
    leases._held.pop(RUN).close()
    assert leases.left() == [RUN]


def test_nothing_is_written_without_a_run(folder: Path) -> None:
    assert leases.hold("")
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_process_of_a_step_counts_as_the_runs_life(folder: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"],
        stdin=subprocess.PIPE, env={**os.environ, leases.RUN_VARIABLE: RUN},
    )  # fmt: skip
    end = time.monotonic() + 5
    while not leases.alive(RUN) and time.monotonic() < end:
        time.sleep(0.02)
    assert leases.alive(RUN)
    assert not leases.alive(RUN[::-1])
    child.communicate(b"\n")
    assert not leases.alive(RUN)
