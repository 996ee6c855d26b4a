"""What the pipeline tells the lineage of a step's files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from detector.lineage import stamp
from detector.lineage.surroundings import run_ids
from tasks.request import Request
from tasks.stamping import stamping, variables, with_run
from tasks.tracked_run import RunFile


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTOR_RUN_TAGS", '{"prefect.flow_run_id": "p"}')
    return tmp_path


def test_a_training_learns_its_mlflow_run_when_that_is_known(place: Path) -> None:
    found = variables("train-1", place, "d")
    assert found["DETECTOR_DATA_DIGEST"] == "d"
    assert run_ids(found) == {"prefect": "p", "step": "train-1"}
    RunFile(key="train-1", run_id="m").save(place)
    assert run_ids(found) == {"mlflow": "m", "prefect": "p", "step": "train-1"}


@pytest.mark.parametrize(
    ("lineage", "expected"),
    [
        ({"stamp": 1}, {"mlflow": "m"}),
        ({"stamp": 1, "runs": {"prefect": "p"}}, {"mlflow": "m", "prefect": "p"}),
        ({"stamp": 1, "runs": {"mlflow": "first"}}, {"mlflow": "first"}),
    ],
    ids=["none", "another", "its own"],
)
def test_a_promoted_checkpoint_names_the_run(place: Path, lineage: dict, expected: dict) -> None:
    meta = {"epoch": 1, "lineage": lineage}
    assert with_run(meta, place) == meta
    RunFile(key="k", run_id="m").save(place)
    assert with_run(meta, place)["lineage"]["runs"] == expected
    assert with_run({"epoch": 1}, place) == {"epoch": 1}


def test_a_step_stamps_what_it_writes_and_leaves_the_environment(place: Path) -> None:
    before = dict(os.environ)
    with stamping("evaluate", "evaluate-1", Request(), "d"):
        found = stamp.current() or {}
    assert found["runs"] == {"prefect": "p", "step": "evaluate-1"}
    assert found["command"][:5] == ["python", "-u", "-m", "tasks", "evaluate"]
    assert dict(os.environ) == before
