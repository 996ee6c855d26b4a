from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tasks import prefect_artifacts
from tasks.prefect_artifacts import Bar, Course, Sparing
from tasks.request import Request

TRAIN = "Epoch [2][30/60]\tlr: 1.0e-03, eta: 0:01:40, time: 0.3, loss_cls: 0.5, loss: 1.2345, grad_norm: 2.1"
VAL = "Epoch(val) [1][12]\tbbox_mAP: 0.0618, bbox_mAP_50: 0.1591"


class Sent:
    """What the Prefect UI was told; ``wait`` holds every call up."""

    def __init__(self, *, error: Exception | None = None) -> None:
        self.values: list[tuple[float, str]] = []
        self.free, self.error = threading.Event(), error
        self.free.set()

    def create(self, progress: float, *, key: str, description: str) -> str:
        self.free.wait(20)
        if self.error is not None:
            raise self.error
        self.values.append((progress, description))
        return "artifact"

    def update(self, artifact: str, *, progress: float, description: str) -> None:
        assert artifact == "artifact"
        self.create(progress, key="", description=description)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(prefect_artifacts, "EVERY", 0.2)

    def watched(sent: Sent) -> Bar:
        monkeypatch.setattr(prefect_artifacts, "create_progress_artifact", sent.create)
        monkeypatch.setattr(prefect_artifacts, "update_progress_artifact", sent.update)
        return Bar("progress-x", 3)

    return watched


@pytest.mark.parametrize(
    ("epochs", "percent", "words"),
    [
        (3, 50.0, "iteration 90 of 180, epoch 2 of 3, 0:01:40 left, loss 1.2345"),
        (0, 50.0, "iteration 30 of 60, 0:01:40 left, loss 1.2345"),
    ],
    ids=["by epochs", "by iterations"],
)
def test_course_is_read_from_the_log(epochs: int, percent: float, words: str) -> None:
    course = Course(epochs)
    assert course.read(TRAIN)
    assert (course.percent, course.words) == (percent, words)


def test_course_keeps_the_last_evaluation() -> None:
    course = Course(3)
    course.read(VAL)
    course.read(TRAIN)
    assert course.words.endswith("loss 1.2345, bbox_mAP 0.0618 at the last evaluation")


@pytest.mark.parametrize("line", ["", "work_dir x", "checkpoint: a.pth", "Epoch [x][1/2]"])
def test_other_lines_say_nothing(line: str) -> None:
    assert not Course(3).read(line)


def test_bar_ends_full(quick: Any) -> None:
    sent = Sent()
    bar = quick(sent)
    bar.line(TRAIN)
    bar.close(done=True)
    assert sent.values[-1][0] == 100.0


def test_only_the_latest_value_is_sent(quick: Any) -> None:
    sent = Sent()
    sent.free.clear()
    bar = quick(sent)
    for iteration in range(1, 61):
        bar.line(TRAIN.replace("[30/60]", f"[{iteration}/60]"))
    sent.free.set()
    bar.close(done=True)
    assert len(sent.values) <= 4


def test_server_that_hangs_delays_nothing(quick: Any) -> None:
    sent = Sent()
    sent.free.clear()
    bar = quick(sent)
    started = time.monotonic()
    for _ in range(100):
        bar.line(TRAIN)
    assert time.monotonic() - started < 0.1
    bar.close(done=True)
    bar.close(done=False)
    assert time.monotonic() - started < 2
    sent.free.set()


def test_server_that_refuses_fails_nothing(quick: Any) -> None:
    sent = Sent(error=ConnectionError("no server"))
    bar = quick(sent)
    bar.line(TRAIN)
    bar.close(done=True)
    assert sent.values == []


def test_bar_of_a_request_counts_what_its_config_counts() -> None:
    assert prefect_artifacts.bar(Request("mask_rcnn", epochs=7)).course.epochs == 7


def test_flood_is_left_out_and_counted() -> None:
    now, said = [0.0], list[str]()
    log = Sparing(said.append, at_once=3, per_s=1.0, clock=lambda: now[0])
    for number in range(10):
        log(f"line {number}")
    now[0] = 2.0
    log("later")
    assert said[:3] == ["line 0", "line 1", "line 2"]
    assert said[3].startswith("(7 lines are left out here")
    assert said[4:] == ["later"]


def test_calm_lines_all_pass() -> None:
    now, said = [0.0], list[str]()
    log = Sparing(said.append, at_once=2, per_s=1.0, clock=lambda: now[0])
    for number in range(20):
        now[0] = float(number)
        log(str(number))
    log.say_omitted()
    assert said == [str(number) for number in range(20)]
