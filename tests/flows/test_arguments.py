from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from detector.errors import ConfigError, DatasetError, DetectorError
from flows import arguments, prepare_data, train_eval
from tasks import prefect_tasks
from tasks.registry import STEPS
from tasks.request import DataRequest


@pytest.fixture(autouse=True)
def clean_filters() -> Any:
    yield
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).removeFilter(arguments._without_traceback)


@pytest.mark.parametrize(
    ("main", "argv", "said"),
    [
        (train_eval.main, ["--config", "nonsense"], "train-eval: config 'nonsense': found neither a file"),
        (
            train_eval.main,
            ["--dataset", "nonsense"],
            "train-eval: config 'mask_rcnn' with dataset 'nonsense'",
        ),
        (prepare_data.main, ["--dataset", "nonsense"], "prepare-data: dataset 'nonsense': no such data set"),
    ],
)
def test_wrong_name_is_one_paragraph(
    main: Callable[[list[str]], int], argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith(said)
    assert shown.err.count("\n") == 1
    assert "Traceback" not in shown.err + shown.out


def test_verbose_shows_the_traceback() -> None:
    with pytest.raises(ConfigError):
        train_eval.main(["--config", "nonsense", "--verbose"])


def test_parameters_of_the_command_line() -> None:
    found = arguments.parse("", ["config", "score_threshold", "store"], ["--store", "there"])
    assert found == {"config": "mask_rcnn", "score_threshold": None, "store": "there", "verbose": False}


def test_steps_to_refresh_are_named_and_checked(capsys: pytest.CaptureFixture[str]) -> None:
    found = arguments.parse("", ["refresh"], ["--refresh", "train", "--refresh", "format"])
    assert found["refresh"] == ["train", "format"]
    arguments.check({"config": "mask_rcnn", "refresh": found["refresh"]})
    with pytest.raises(SystemExit):
        arguments.parse("", ["refresh"], ["--refresh", "everything"])
    assert "invalid choice: 'everything'" in capsys.readouterr().err


def test_every_step_can_be_refreshed() -> None:
    assert list(get_args(arguments.StepName)) == list(STEPS)


def test_good_names_pass(tmp_path: Path) -> None:
    arguments.check({"config": "mask_rcnn", "dataset": "sample", "score_threshold": None})
    arguments.check({"dataset": "sample", "store": str(tmp_path)})


@pytest.mark.parametrize(("error", "kept"), [(DatasetError("gone"), False), (ValueError("bug"), True)])
def test_only_errors_of_the_user_lose_their_traceback(
    error: Exception, kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    arguments.quiet()
    try:
        raise error
    except (DetectorError, ValueError):
        logging.getLogger("prefect.flow_runs").exception("it failed")
    assert ("Traceback" in caplog.text) is kept


def test_only_the_named_steps_are_forgotten_before_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[str] = []

    def steps(name: str) -> Any:
        return SimpleNamespace(
            forget=lambda request: did.append(f"forget {name}"), receipt=lambda key: (None, "not run")
        )

    monkeypatch.setattr(prefect_tasks, "STEPS", {name: steps(name) for name in STEPS})
    monkeypatch.setattr(
        prefect_tasks, "step_task", lambda name: lambda request: did.append(f"run {name}") or {"key": name}
    )
    request: Any = SimpleNamespace(config="mask_rcnn", dataset="sample", data=DataRequest())
    prefect_tasks.run_all(request, ("train", "evaluate"), ["train"])
    assert did == ["run prepare", "run convert", "forget train", "run train", "run evaluate"]
