"""Short versions of tests/endurance/outage.py: a stand-in for the server, and a log instead of a training."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks import spool, tracked_run, tracking
from tasks.tracked_run import Facts, RunFile, metric_name
from tasks.tracking import following
from tests.unit.tasks.tracking_stand_in import StandIn

FACTS = Facts("toy", 0, "train-1", "sample", "d" * 64, {"lr": "0.1"}, "lr = 0.1\n")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    made = StandIn(tmp_path / "artifacts", slow_s=0.5)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(following, "EVERY", 0.05)
    monkeypatch.setattr(following, "LONGEST_PAUSE", 0.1)
    yield made
    made.close()


def quiet(text: str) -> None:
    pass


def train(work_dir: Path, server: StandIn, faults: list[str], steps: int = 40, *, first: int = 1) -> None:
    """A training whose log grows; the server's faults come one after the other, each for a part of it."""
    work_dir.mkdir(exist_ok=True)
    tracked_run.begin(work_dir, FACTS)
    path = work_dir / f"2026010{first % 10}_000000.log.json"
    server.fault = faults[0]
    with tracking.track(work_dir, quiet):
        for step in range(first, first + steps):
            server.fault = faults[(step - first) * len(faults) // steps]
            line = {"mode": "train", "epoch": 1, "iter": step, "loss": 1 / step, "time": 0.1}
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            time.sleep(0.02)


def expected(work_dir: Path) -> Counter[Any]:
    rows = spool.read(work_dir, spool.Position())
    found = [point for row in rows for point in spool.points(row)] + spool.read_system(work_dir, 0)[0]
    return Counter((metric_name(one.key), one.step, one.timestamp, one.value) for one in found)


def check(work_dir: Path, server: StandIn, status: str = "FINISHED") -> None:
    """Everything is there once, in one run."""
    server.fault = ""
    assert [one.state for one in tracking.sync([work_dir], quiet)] == ["sent"]
    (run,) = server.runs.values()
    assert run["info"]["status"] == status
    assert Counter(server.points[RunFile.load(work_dir).run_id]) == expected(work_dir)
    calls = server.calls
    assert [one.state for one in tracking.sync([work_dir], quiet)] == ["sent"]
    assert server.calls == calls + 1, "there is nothing left but to ask whether the run is still there"


@pytest.mark.slow
@pytest.mark.parametrize(
    "faults",
    [["down"], ["", "down", ""], ["", "broken", ""], ["lost", ""], ["", "lost", "down"]],
    ids=["down", "dies and comes back", "broken for a while", "answers lost at start", "lost, then down"],
)
def test_nothing_is_lost_and_nothing_comes_twice(tmp_path: Path, server: StandIn, faults: list[str]) -> None:
    train(tmp_path / "train", server, faults)
    check(tmp_path / "train", server)


@pytest.mark.slow
def test_a_server_that_comes_back_is_told_by_the_training_itself(tmp_path: Path, server: StandIn) -> None:
    work_dir = tmp_path / "train"
    train(work_dir, server, ["", "down", "broken", ""])
    (run,) = server.runs.values()
    assert run["info"]["status"] == "FINISHED"
    assert Counter(server.points[RunFile.load(work_dir).run_id]) == expected(work_dir)


@pytest.mark.slow
def test_a_slow_server_does_not_hold_up_the_end(
    tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PATIENCE", 0.3)
    started = time.monotonic()
    train(tmp_path / "train", server, ["slow"])
    assert time.monotonic() - started < 5
    server.fault = ""
    end = time.monotonic() + 10
    states: list[str] = []
    while states != ["sent"] and time.monotonic() < end:  # the sender of the training may still be at it
        states = [one.state for one in tracking.sync([tmp_path / "train"], quiet)]
        time.sleep(0.1)
    check(tmp_path / "train", server)


@pytest.mark.slow
def test_a_training_that_was_killed_offline_and_resumed_is_one_run(tmp_path: Path, server: StandIn) -> None:
    work_dir = tmp_path / "train"
    train(work_dir, server, ["down"], 20)
    file = RunFile.load(work_dir)
    file.status, file.ended = "", 0  # as SIGKILL leaves it
    file.save(work_dir)
    train(work_dir, server, ["down"], 20, first=12)
    assert RunFile.load(work_dir).attempt == file.attempt
    assert max(step for _, step, *_ in expected(work_dir)) == 31
    check(work_dir, server)


@pytest.mark.slow
def test_a_killed_training_that_is_not_resumed_is_killed(tmp_path: Path, server: StandIn) -> None:
    work_dir = tmp_path / "train"
    train(work_dir, server, [""], 5)
    file = RunFile.load(work_dir)
    file.status = ""
    file.save(work_dir)
    check(work_dir, server, "KILLED")
