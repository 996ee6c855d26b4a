from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detector.errors import ConfigError
from tasks import spool, tracked_run, tracking
from tasks.tracked_run import DataInput, Facts, RunFile
from tasks.tracking import additions, following, store

CONFIG = {
    "model": {"type": "X", "anchors": [[1, 2], [3, 4]], "scales": [1, 2]},
    "lr=": None, "seed": 7, "empty": {},
}  # fmt: skip
FACTS = Facts(
    name="toy", seed=0, key="train-1", dataset="sample", data="d" * 64,
    params=tracked_run.flatten(CONFIG), text="model = dict(type='X')\n",
    inputs=(DataInput("sample (train)", "d" * 40, "training", "{}"),),
)  # fmt: skip


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(following, "PATIENCE", 120.0)  # the first database on a busy machine takes long
    (tmp_path / "run" / "train").mkdir(parents=True)
    return tmp_path


def log_line(iteration: int, loss: float) -> str:
    return json.dumps({"mode": "train", "epoch": 1, "iter": iteration, "loss": loss, "time": 0.1}) + "\n"


def quiet(text: str) -> None:
    pass


def test_flatten_keeps_to_the_names_and_lengths_that_mlflow_takes() -> None:
    flat = tracked_run.flatten({**CONFIG, "text": "x" * 7000, "k" * 300: 1})
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
    tracked_run.begin(project / "run", FACTS)
    tags = RunFile.load(project / "run").tags
    assert tags["prefect.flow_run_id"] == "abc"
    assert tags["mlflow.note.content"] == "[Prefect flow run abc](http://127.0.0.1:4200/x)"


def test_training_that_goes_on_keeps_its_run_and_another_key_does_not(project: Path) -> None:
    RunFile(key="train-1", run_id="r").save(project / "run")
    tracked_run.begin(project / "run", FACTS)
    first = RunFile.load(project / "run")
    tracked_run.begin(project / "run", FACTS)
    assert RunFile.load(project / "run") == first
    assert first.run_id == "r"
    assert len(first.attempt) == 32
    tracked_run.begin(project / "run", replace(FACTS, key="train-2"))
    second = RunFile.load(project / "run")
    assert second.run_id == ""
    assert second.attempt not in ("", first.attempt)


def test_facts_survive(project: Path) -> None:
    FACTS.save(project / "run")
    assert Facts.load(project / "run") == FACTS
    (project / "run" / tracked_run.FACTS_FILE).write_text("[]")
    assert Facts.load(project / "run") is None


def fail(*arguments: Any) -> Any:
    raise OSError("the disk is full")


def train(project: Path, lines: str = "", key: str = "train-1", log: Any = quiet) -> Path:
    """A training that writes these lines and ends, as the step tells it."""
    work_dir, checkpoint = project / "run" / "train", project / "run" / "model.pth"
    tracked_run.begin(work_dir, replace(FACTS, key=key))
    with tracking.track(work_dir, log):
        if lines:
            (work_dir / "20260101_000000.log.json").write_text(lines)
        checkpoint.write_bytes(key.encode())
        tracked_run.finished(work_dir, checkpoint, f"sha of {key}")
    return work_dir


def evaluate(project: Path, log: Any = quiet, **parts: Any) -> None:
    """An evaluation that adds to the run of the model."""
    folder = project / "run" / "eval"
    folder.mkdir(exist_ok=True)
    given = {"attempt": tracking.attempt_of(project / "run"), "when": 1000, **parts}
    tracking.add(folder, tracking.Addition(kind="eval", **given), log)


def test_a_tracker_that_fails_is_only_reported(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "client", fail)
    said: list[str] = []
    work_dir = train(project, log=said.append)
    evaluate(project, said.append, metrics={"mAP": 0.5})
    assert all("OSError: the disk is full" in text for text in said)
    assert "Training goes on" in said[0]
    assert "tracking sync" in said[0]
    assert "complete without it" in said[1]
    assert RunFile.load(work_dir).status == "FINISHED"
    assert RunFile.load(project / "run").key == "train-1"


def test_it_can_be_switched_off(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(store.SWITCH, "off")
    said: list[str] = []
    train(project, log=said.append)
    evaluate(project, said.append)
    assert said == []
    assert not (project / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("NaN"), "FAILED"), (KeyboardInterrupt(), "KILLED")],
    ids=["error", "stop"],
)
def test_an_error_of_the_training_passes_through(
    project: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: str
) -> None:
    monkeypatch.setattr(store, "client", fail)
    work_dir = project / "run" / "train"
    tracked_run.begin(work_dir, FACTS)
    with pytest.raises(type(error)), tracking.track(work_dir, quiet):
        raise error
    assert RunFile.load(work_dir).status == status


@pytest.mark.parametrize("stopped", [False, True], ids=["end", "cancel"])
def test_a_store_that_hangs_does_not_hold_up_the_end(
    project: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    never = threading.Event()
    monkeypatch.setattr(store, "client", lambda: never.wait(30))
    monkeypatch.setattr(following, "PATIENCE", 0.2)
    monkeypatch.setattr(following, "PATIENCE_WHEN_STOPPED", 0.2)
    said: list[str] = []
    started = time.monotonic()
    with contextlib.suppress(SystemExit):
        tracked_run.begin(project / "run" / "train", FACTS)
        with tracking.track(project / "run" / "train", said.append):
            time.sleep(0.3)
            if stopped:
                raise SystemExit(143)
    assert time.monotonic() - started < 15
    assert "no answer for 0 s, going on without" in said[0]
    never.set()


SECRETS = "http://me:hunter2@host:5000/api?token=abc"


def test_secrets_are_neither_said_nor_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    said = store.described(OSError(f"request to {SECRETS} failed, password: hunter2"))
    assert "hunter2" not in said
    assert "abc" not in said
    assert "host:5000/api" in said
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SECRETS)
    assert store.shown_uri() == "http://host:5000/api"
    assert RunFile(uri=store.shown_uri(), experiment_id="1", run_id="r").url == (
        "http://host:5000/api/#/experiments/1/runs/r"
    )


def client() -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking.store_uri())


def history(run_id: str, key: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client().get_metric_history(run_id, key)]


@pytest.mark.slow
def test_a_training_is_followed_and_a_replay_adds_nothing(project: Path) -> None:
    work_dir = train(project, log_line(1, 2.0) + log_line(2, 1.0))
    file = RunFile.load(work_dir)
    before = client().get_run(file.run_id)
    replace(file, position=spool.Position(), sent={}, system=0).save(work_dir)
    assert [one.state for one in tracking.sync([project / "run"], quiet)] == ["sent"]

    run = client().get_run(file.run_id)
    assert RunFile.load(project / "run").run_id == file.run_id
    assert (run.info.status, run.info.end_time) == ("FINISHED", before.info.end_time)
    assert history(file.run_id, "train/loss") == [(1, 2.0), (2, 1.0)]
    assert history(file.run_id, "epoch") == [(1, 1.0), (2, 1.0)]
    assert len(history(file.run_id, "system/cpu_utilization_percentage")) == 1
    assert run.data.params["model.type"] == "X"
    assert run.data.params["seed"] == "0"
    assert run.data.tags["checkpoint.sha256"] == "sha of train-1"
    made = (project / "run" / "model.pth").read_bytes()
    assert run.data.tags["checkpoint.dvc_md5"] == hashlib.md5(made).hexdigest()
    assert [(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs] == [
        ("sample (train)", "d" * 36)
    ]
    assert {item.path for item in client().list_artifacts(file.run_id)} == {"toy.py"}


@pytest.mark.slow
def test_an_evaluation_adds_to_the_run_of_the_model_and_changes_nothing_else(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(tracked_run.TAGS_VARIABLE, json.dumps({"prefect.flow_run_id": "of the training"}))
    train(project)
    made = RunFile.load(project / "run").run_id
    before = client().get_run(made)
    monkeypatch.setenv(tracked_run.TAGS_VARIABLE, json.dumps({"prefect.flow_run_id": "of the evaluation"}))
    table = {"class": ["car", "bus"], "bbox": [0.5, None]}
    parts = {"metrics": {"bbox_mAP": 0.5}, "tags": {"score_threshold": "0.3"}, "tables": {"ap.json": table}}
    for _ in range(2):
        evaluate(project, **parts)
    after = client().get_run(made)
    assert history(made, "eval/bbox_mAP") == [(0, 0.5)]
    added = {"eval.score_threshold", "mlflow.loggedArtifacts"}
    assert {k: v for k, v in after.data.tags.items() if k not in added} == before.data.tags
    assert after.data.tags["prefect.flow_run_id"] == "of the training"
    assert (after.info.status, after.info.end_time) == (before.info.status, before.info.end_time)
    found = client().load_table(before.info.experiment_id, "ap.json", [made])
    assert found["class"].tolist() == ["car", "bus"]


@pytest.mark.slow
def test_a_repeated_training_is_another_run_and_a_lost_one_is_refilled(project: Path) -> None:
    ids = []
    for repeated in (False, False, True):
        if repeated:
            (project / "run" / "train" / tracked_run.RUN_FILE).unlink()
        ids.append(RunFile.load(train(project, log_line(1, 2.0))).run_id)
    assert ids[0] == ids[1] != ids[2]
    assert history(ids[2], "train/loss") == [(1, 2.0)]
    client().delete_run(ids[2])
    evaluate(project, metrics={"mAP": 0.5})
    new = RunFile.load(project / "run").run_id
    assert new not in ids
    assert history(new, "train/loss") == [(1, 2.0)]
    assert history(new, "eval/mAP") == [(0, 0.5)]
    assert client().get_run(new).data.params["config"] == "toy"
    refilled = client().get_run(new).info  # told of after its end, it still began before that
    assert refilled.start_time == RunFile.load(project / "run" / "train").began <= refilled.end_time


def test_a_training_that_is_nowhere_is_said_and_not_invented(project: Path) -> None:
    said: list[str] = []
    evaluate(project, said.append, attempt="another")
    assert "not here any more" in said[0]


def test_sync_leaves_a_running_training_alone_and_says_what_it_does(project: Path) -> None:
    work_dir = project / "run" / "train"
    tracked_run.begin(work_dir, FACTS)
    said: list[str] = []
    with tracking.session.sending(work_dir, quiet):
        found = tracking.sync([project], said.append)
    assert [(one.folder, one.state) for one in found] == [(work_dir, "busy")]
    assert RunFile.load(work_dir).status == ""


@pytest.mark.parametrize("make", [False, True], ids=["no folder", "no run"])
def test_sync_of_nothing_is_an_error(project: Path, make: bool) -> None:
    if make:
        (project / "empty").mkdir()
    with pytest.raises(ConfigError, match="Correct the path" if not make else "Train first"):
        tracking.sync([project / "empty"], quiet)


def test_an_addition_survives(project: Path) -> None:
    model = tracking.MeasuredModel(*"abcdefghijkl")
    made = tracking.Addition("eval", "a", 1, inputs=list(FACTS.inputs), model=model)
    made.save(project)
    assert additions.Addition.load(project) == made


def test_artifacts_of_a_store_of_the_users_are_where_it_puts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking.is_local()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert not tracking.is_local()
