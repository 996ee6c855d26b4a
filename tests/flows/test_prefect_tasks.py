from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema

from detector.errors import DatasetError
from flows import place, serve
from flows.evaluate import evaluate
from flows.prepare_data import prepare_data
from flows.sweep import sweep
from flows.test_dev import format_test_dev
from flows.train import train
from flows.train_eval import train_eval
from flows.zoo_eval import evaluate_zoo
from tasks import launch, prefect_artifacts, prefect_tasks
from tasks.launch import ProcessError
from tasks.request import Request
from tasks.steps import Job, Step

FLOWS = [prepare_data, train, evaluate, train_eval, format_test_dev, sweep, evaluate_zoo]


def write(job: Job, request: str) -> None:
    Path(request).write_text("x")


STEP: Step[str] = Step(name="toy", run=write, inputs=lambda name: {}, outputs=lambda name: [Path(name)])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTOR_CACHE", raising=False)
    monkeypatch.setattr("tasks.steps.code_digest", lambda roots, ignore: "code")
    return tmp_path


def key(step: Step[Any], request: Any) -> str | None:
    return prefect_tasks.ReceiptPolicy(step=step).compute_key(None, {"request": request}, {})  # type: ignore[arg-type]


def test_flows_are_named_like_their_deployments() -> None:
    assert [flow.name for flow in FLOWS] == list(place.DEPLOYMENTS)


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_every_parameter_is_typed_and_described(flow: Any) -> None:
    properties = parameter_schema(flow).properties
    assert all(entry.get("description") for entry in properties.values())
    assert all("type" in entry or "anyOf" in entry for entry in properties.values())
    assert not parameter_schema(flow).required


def test_deployments_are_found_by_module() -> None:
    found = serve.deployments()
    assert [(item.name, item.flow_name) for item in found] == [(name, name) for name in place.DEPLOYMENTS]
    assert found[3].entrypoint == "flows.train_eval.train_eval"


def test_key_is_the_steps_own(folder: Path) -> None:
    assert key(STEP, "a.txt") == STEP.key("a.txt")


def test_record_of_a_lost_output_is_dropped(folder: Path) -> None:
    STEP.ensure("a.txt", log=lambda text: None)
    record = folder / ".cache" / "prefect" / "keys" / STEP.key("a.txt")
    record.parent.mkdir(parents=True)
    record.touch()
    key(STEP, "a.txt")
    assert record.exists()
    (folder / "a.txt").unlink()
    key(STEP, "a.txt")
    assert not record.exists()


def test_result_is_the_receipts_when_prefects_record_is_older(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = STEP.ensure("a.txt", log=lambda text: None)
    older = {**prefect_tasks.summary(now), "digest": "of an older run", "value": "old"}
    monkeypatch.setitem(prefect_tasks.STEPS, "toy", STEP)
    monkeypatch.setattr(prefect_tasks, "step_task", lambda name: lambda request: older)
    assert prefect_tasks.run("toy", "a.txt") == prefect_tasks.summary(now)


def test_cancel_ends_before_prefect_kills() -> None:
    assert prefect_tasks.GRACE + launch.FOLLOW + 2.0 < 30


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("mask_rcnn", "mask_rcnn-sample-seed3"),
        ("mask_rcnn_r18_fpn_sample", "mask_rcnn_r18_fpn_sample-seed3"),
        ("my/own/config.py", "config-seed3"),
    ],
)
def test_run_is_named_after_what_counts(config: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = {"config": config, "dataset": "sample", "seed": 3}
    monkeypatch.setattr(prefect_tasks, "flow_run", SimpleNamespace(parameters=parameters))
    assert prefect_tasks.run_name() == name


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request("mask_rcnn_r18_fpn_sample", "coco"), True),
        (Request("mask_rcnn_r18_fpn_sample", "sample"), False),
        (Request("mask_rcnn", "sample"), False),
    ],
)
def test_data_set_that_a_full_config_overrules_is_said(
    request_: Request, said: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prefect_tasks, "get_run_logger", lambda: logging.getLogger("here"))
    monkeypatch.setattr(prefect_tasks, "run", lambda name, request, refresh: {"step": name})
    with caplog.at_level("INFO"):
        done = prefect_tasks.run_all(request_, ("train",))
    assert [item["step"] for item in done] == ["prepare", "convert", "train"]
    assert ("the parameter dataset=coco" in caplog.text) is said


def test_missing_input_means_no_cache_and_no_error_here(folder: Path) -> None:
    def missing(request: str) -> dict[str, Any]:
        raise DatasetError("not there")

    assert key(replace(STEP, inputs=missing), "a.txt") is None


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ProcessError("killed", -9), True),
        (ProcessError("cancelled", 143), True),
        (ProcessError("failed", 1), False),
        (DatasetError("wrong"), False),
        (ConnectionError("lost"), True),
    ],
)
def test_only_what_can_pass_is_tried_again(error: Exception, again: bool) -> None:
    state = SimpleNamespace(result=lambda raise_on_failure: error)
    assert prefect_tasks.worth_retrying(None, None, state) is again


def test_report_never_fails_a_flow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def fail(*arguments: Any, **named: Any) -> None:
        tried.append(named["key"])
        raise ConnectionError("no server")

    monkeypatch.setattr(prefect_artifacts, "create_markdown_artifact", fail)
    monkeypatch.setattr(prefect_artifacts.report, "markdown", lambda *arguments: "text")
    prefect_tasks.publish("train", Request(), [])
    assert tried == ["train-report"]
