"""Short version of the scripts that cancel and kill served runs."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest

from tests.endurance.cancels import LIMIT_S, cancel_once
from tests.endurance.deaths import Served, die
from tests.endurance.served import Project

EPOCHS = 8  # of 12 iterations: long enough to be met twice


@pytest.mark.slow
@pytest.mark.flow
@pytest.mark.timeout(1500)  # about a minute and a half on a quiet machine
def test_a_run_that_is_cancelled_and_then_killed_with_everything_ends_the_same(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        project = Project(tmp_path / "project", free.getsockname()[1])
    project.make()
    served = Served(project)
    try:
        cancelled = cancel_once(project, "training", EPOCHS, random.Random(0))
        assert [fault for fault in cancelled.faults if "processes were there" not in fault] == []
        assert cancelled.gone < 2 * LIMIT_S  # less on a quiet machine: the script's own bound
        death = die(project, "everything", 0, served.power_failure, EPOCHS)
    finally:
        served.end()
    assert death.faults == []
    assert "Resuming" in death.states
    assert death.kept > 0
