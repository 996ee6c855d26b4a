from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detector.errors import ConfigError, DatasetError, DetectorError
from flows import arguments, prepare_data, train_eval


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
