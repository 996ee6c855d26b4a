from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks import spool, tracked_run, tracking
from tasks.tracked_run import Facts, RunFile

FACTS = Facts(
    name="toy", seed=0, key="train-1", dataset="sample", data="d" * 64,
    config={
        "model": {"type": "X", "anchors": [[1, 2], [3, 4]], "scales": [1, 2]},
        "lr=": None, "seed": 7, "empty": {},
    },
    text="model = dict(type='X')\n",
)  # fmt: skip


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "run" / "train").mkdir(parents=True)
    return tmp_path


def log_line(iteration: int, loss: float) -> str:
    return json.dumps({"mode": "train", "epoch": 1, "iter": iteration, "loss": loss, "time": 0.1}) + "\n"


def quiet(text: str) -> None:
    pass


def test_flatten_keeps_to_the_names_and_lengths_that_mlflow_takes() -> None:
    flat = tracked_run.flatten({**FACTS.config, "text": "x" * 7000, "k" * 300: 1})
    assert flat["model.type"] == "X"
    assert flat["model.anchors.0"] == "[1, 2]"
    assert flat["model.scales"] == "[1, 2]"
    assert flat["lr_"] == "None"
    assert flat["empty"] == "{}"
    assert len(flat["text"]) == 6000
    assert max(map(len, flat)) == 250


def test_store_is_in_the_project(project: Path) -> None:
    assert tracking.store_uri() == f"sqlite:///{project}/mlflow.db"


def test_run_file_survives_and_damage_means_none(project: Path) -> None:
    file = RunFile("k", "u", "1", "r", spool.Position("a", 5, last={"train": 3}), {"config": "x"})
    file.save(project / "run")
    assert RunFile.load(project / "run") == file
    (project / "run" / tracked_run.RUN_FILE).write_text("{")
    assert RunFile.load(project / "run") == RunFile()
    assert file.url == "http://127.0.0.1:5000/#/experiments/1/runs/r"


def test_tags_carry_the_surrounding_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"prefect.flow_run_id": "abc", "prefect.url": "http://127.0.0.1:4200/x"}
    monkeypatch.setenv(tracked_run.TAGS_VARIABLE, json.dumps(given))
    tracked_run.begin(project / "run", "train-1")
    tags = RunFile.load(project / "run").tags
    assert tags["prefect.flow_run_id"] == "abc"
    assert tags["mlflow.note.content"] == "[Prefect flow run abc](http://127.0.0.1:4200/x)"


def test_training_that_goes_on_keeps_its_run_and_another_key_does_not(project: Path) -> None:
    RunFile(key="train-1", run_id="r").save(project / "run")
    tracked_run.begin(project / "run", "train-1")
    assert RunFile.load(project / "run").run_id == "r"
    tracked_run.begin(project / "run", "train-2")
    assert RunFile.load(project / "run").run_id == ""


def fail(*arguments: Any) -> Any:
    raise OSError("the disk is full")


def facts() -> Facts:
    return FACTS


def finish(project: Path, key: str = "train-1", log: Any = quiet) -> Path:
    """A training of a key that ended, as the step tells it."""
    work_dir, checkpoint = project / "run" / "train", project / "run" / "model.pth"
    checkpoint.write_bytes(key.encode())
    tracked_run.begin(work_dir, key)
    tracking.finish(work_dir, lambda: replace(FACTS, key=key), checkpoint, f"sha of {key}", log)
    return checkpoint


def add(project: Path, send: Any, log: Any = quiet) -> None:
    """What an evaluation sends."""
    work_dir, checkpoint = project / "run" / "train", project / "run" / "model.pth"
    tracking.add(work_dir, checkpoint, lambda key: replace(FACTS, key=key), send, log)


def test_a_tracker_that_fails_is_only_reported(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "Session", fail)
    said: list[str] = []
    with tracking.track(project / "run" / "train", facts, said.append):
        pass
    finish(project, log=said.append)
    add(project, fail, said.append)
    assert all("OSError: the disk is full" in text for text in said)
    assert "Training goes on" in said[0]
    assert "complete without it" in said[1]
    assert RunFile.load(project / "run").key == "train-1"


def test_facts_that_fail_are_only_reported(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "Session", lambda folder: None)
    said: list[str] = []
    with tracking.track(project / "run" / "train", fail, said.append):
        pass
    assert "OSError" in said[0]


def test_an_error_of_the_training_passes_through(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "Session", fail)
    with (
        pytest.raises(ValueError, match="loss is NaN"),
        tracking.track(project / "run" / "train", facts, quiet),
    ):
        raise ValueError("loss is NaN")


def client() -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking.store_uri())


@pytest.mark.slow
def test_a_training_is_followed_and_a_replay_adds_nothing(project: Path) -> None:
    work_dir = project / "run" / "train"
    tracked_run.begin(work_dir, "train-1")
    with tracking.track(work_dir, facts, quiet):
        (work_dir / "20260101_000000.log.json").write_text(log_line(1, 2.0) + log_line(2, 1.0))
    finish(project)
    file = RunFile.load(work_dir)
    replace(file, position=spool.Position()).save(work_dir)
    finish(project)

    run = client().get_run(file.run_id)
    assert RunFile.load(project / "run").run_id == file.run_id
    assert run.info.status == "FINISHED"
    assert [(m.step, m.value) for m in client().get_metric_history(file.run_id, "train/loss")] == [
        (1, 2.0),
        (2, 1.0),
    ]
    assert run.data.params["model.type"] == "X"
    assert run.data.params["seed"] == "0"
    assert run.data.tags["checkpoint.sha256"] == "sha of train-1"
    assert run.inputs.dataset_inputs[0].dataset.digest == FACTS.data[:36]
    assert {item.path for item in client().list_artifacts(file.run_id)} == {"toy.py", "checkpoint"}
    assert (project / "mlruns/sample" / file.run_id / "artifacts/checkpoint/model.pth").is_file()


@pytest.mark.slow
def test_an_evaluation_adds_to_the_run_of_the_model_and_changes_nothing_else(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(tracked_run.TAGS_VARIABLE, json.dumps({"prefect.flow_run_id": "of the training"}))
    finish(project)
    made = RunFile.load(project / "run").run_id
    before = client().get_run(made)
    tracked_run.begin(project / "run" / "train", "train-2")  # another training, cancelled at once
    monkeypatch.setenv(tracked_run.TAGS_VARIABLE, json.dumps({"prefect.flow_run_id": "of the evaluation"}))

    def send(session: tracking.Session) -> None:
        session.send_metrics("eval", {"bbox_mAP": 0.5}, "digest")
        session.send_tags({"eval.score_threshold": "0.3"})

    add(project, send)
    add(project, send)
    after = client().get_run(made)
    assert [m.value for m in client().get_metric_history(made, "eval/bbox_mAP")] == [0.5]
    assert after.data.tags == {**before.data.tags, "eval.score_threshold": "0.3"}
    assert after.data.tags["prefect.flow_run_id"] == "of the training"
    assert (after.info.status, after.info.end_time) == (before.info.status, before.info.end_time)


@pytest.mark.slow
def test_going_back_to_a_key_finds_its_run_and_a_lost_one_is_refilled(project: Path) -> None:
    (project / "run" / "train" / "20260101_000000.log.json").write_text(log_line(1, 2.0))
    ids = []
    for key in ("train-1", "train-2", "train-1"):
        finish(project, key)
        ids.append(RunFile.load(project / "run").run_id)
    assert ids[0] == ids[2] != ids[1]
    client().delete_run(ids[0])
    sent: list[str] = []
    add(project, lambda session: sent.append(session.file.run_id))
    assert sent[0] not in ids
    assert len(client().get_metric_history(sent[0], "train/loss")) == 1
    assert client().get_run(sent[0]).data.params["config"] == "toy"


@pytest.mark.slow
def test_a_run_that_is_nowhere_is_said_and_not_invented(project: Path) -> None:
    said: list[str] = []
    add(project, fail, said.append)
    assert "model.pth is not there" in said[0]


def test_artifacts_of_a_store_of_the_users_are_where_it_puts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking.is_local()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert not tracking.is_local()
