"""Members of a sweep side by side: what fails, and what a cancel of the flow's thread ends."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from detector.errors import DetectorError
from flows import sweep
from tasks import launch, prefect_sweep, sweeps
from tasks.request import Request
from tasks.sweeps import Member

FAMILY = """
import subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(60)
"""


def members(count: int) -> list[Member]:
    return [Member(Request("mask_rcnn", seed=seed), f"seed {seed}") for seed in range(count)]


def test_one_that_fails_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(name: str, member: Member, refresh: Any, stopping: threading.Event) -> dict[str, Any]:
        if member.request.seed == 1 and name == "train":
            raise ValueError("no good")
        return {"step": name}

    monkeypatch.setattr(prefect_sweep, "_step", step)
    found = members(3)
    prefect_sweep.run(found, at_once=2)
    assert [member.error for member in found] == ["", "no good", ""]
    assert [[step["step"] for step in member.done] for member in found] == [
        ["train", "evaluate"], [], ["train", "evaluate"],
    ]  # fmt: skip


@pytest.mark.parametrize("at_once", [1, 3])
def test_as_many_at_a_time_as_there_are_places(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    running: set[int] = set()
    most: list[int] = []

    def step(name: str, member: Member, refresh: Any, stopping: threading.Event) -> dict[str, Any]:
        running.add(member.request.seed)
        most.append(len(running))
        time.sleep(0.05)
        running.discard(member.request.seed)
        return {}

    monkeypatch.setattr(prefect_sweep, "_step", step)
    prefect_sweep.run(members(4), at_once)
    assert max(most) == at_once


def test_member_whose_data_failed_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_sweep, "_step", lambda *arguments: {})
    found = members(2)
    found[0].error = "no data"
    prefect_sweep.run(found, at_once=2)
    assert [len(member.done) for member in found] == [0, 2]


def test_data_sets_are_prepared_once_and_a_failure_is_the_members(monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[tuple[str, str]] = []

    def run(name: str, data: Any, refresh: Any) -> None:
        did.append((name, data.dataset))
        if data.dataset == "coco":
            raise OSError("no space")

    monkeypatch.setattr(prefect_sweep.prefect_tasks, "run", run)
    found = [
        Member(Request("mask_rcnn", dataset, seed=seed), dataset)
        for dataset in ("sample", "coco")
        for seed in (0, 1)
    ]
    prefect_sweep.prepare(found, None)
    assert did == [("prepare", "sample"), ("convert", "sample"), ("prepare", "coco")]
    assert [member.error for member in found] == ["", "", *["OSError: no space"] * 2]


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The flow without Prefect, MLflow and data; gives what is shown."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(Path(__file__).resolve().parents[2] / "configs")
    shown: list[Any] = []
    monkeypatch.setattr(sweep, "get_run_logger", lambda: logging.getLogger("here"))
    monkeypatch.setattr(sweep.prefect_artifacts, "compare", lambda *arguments: shown.append(arguments))
    monkeypatch.setattr(sweep.prefect_sweep, "prepare", lambda members, refresh: None)
    monkeypatch.setattr(sweeps.tracking, "open_sweep", lambda *arguments: "")
    monkeypatch.setattr(sweeps.tracking, "close_sweep", lambda *arguments: None)
    return shown


@pytest.mark.parametrize("bad", [None, 1])
def test_flow_compares_all_and_names_what_failed(
    alone: list[Any], monkeypatch: pytest.MonkeyPatch, bad: int | None
) -> None:
    def step(name: str, member: Member, refresh: Any, stopping: threading.Event) -> dict[str, Any]:
        if member.request.seed == bad:
            raise ValueError("no good")
        metrics = {"bbox_mAP": member.request.seed / 10} if name == "evaluate" else {}
        return {"step": name, "seconds": 1.5, "value": {"metrics": metrics}}

    monkeypatch.setattr(prefect_sweep, "_step", step)
    if bad is None:
        rows = sweep.sweep.fn(seeds=[0, 1, 2], epochs=1)
        assert [row["bbox_mAP"] for row in rows] == [0.0, 0.1, 0.2]
    else:
        with pytest.raises(DetectorError, match=r"^1 of 3 runs failed: .* seed 1: no good"):
            sweep.sweep.fn(seeds=[0, 1, 2], epochs=1)
    ((key, text, rows, _),) = alone
    assert key == "sweep"
    assert [row["state"].split(":")[0] for row in rows].count("completed") == (3 if bad is None else 2)
    assert "| mask_rcnn_r18_fpn_sample |  | 2 | completed | 0.2000 | 3.0000 |  |" in text


@pytest.mark.parametrize("deaf", [False, True], ids=["listens", "ignores SIGTERM"])
def test_cancel_ends_the_processes_of_all_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: bool
) -> None:
    """The signal reaches the main thread alone; the members wait in threads for processes with children."""
    code = ("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if deaf else "") + FAMILY
    tried: list[str] = []

    def step(name: str, member: Member, refresh: Any, stopping: threading.Event) -> dict[str, Any]:
        tried.append(name)
        note = tmp_path / f"{member.request.seed}"
        launch.run([sys.executable, "-c", code, str(note)], what=name, log=lambda text: None)
        return {}

    monkeypatch.setattr(prefect_sweep, "_step", step)
    monkeypatch.setattr(prefect_sweep, "GRACE", 1.0)
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    timer = threading.Thread(target=interrupt_when, args=(lambda: len(list(tmp_path.iterdir())) == 2,))
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        prefect_sweep.run(members(3), at_once=2)
    timer.join()
    assert time.monotonic() - started < 20
    assert tried == ["train", "train"]  # the third one never began
    left = {process.pid for process in psutil.Process().children(recursive=True)} - before
    assert left == set()
    grandchildren = [int(path.read_text()) for path in tmp_path.iterdir()]
    assert not [pid for pid in grandchildren if alive(pid)]


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def interrupt_when(ready: Any) -> None:
    end = time.monotonic() + 15
    while not ready() and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
