from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate

from detector.errors import ConfigError, DatasetError, DetectorError
from flows import arguments, parameters, prepare_data, sweep, train_eval
from flows.serve import deployments
from tasks import prefect_tasks, registry
from tasks.registry import PIPELINE, STEPS
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


FLOWS = [train_eval.train_eval, prepare_data.prepare_data, sweep.sweep]


def values(flow: Any, *words: str) -> dict[str, Any]:
    found = arguments.parse(flow.fn, "", words)
    found.pop("verbose")
    return arguments.values_of(flow.fn, found)


def test_parameters_of_the_command_line_get_their_types() -> None:
    found = values(train_eval.train_eval, "--seed", "3", "--score-threshold", "0.5", "--device", "cuda:1")
    assert found == {"seed": 3, "score_threshold": 0.5, "device": "cuda:1"}


def test_lists_of_the_command_line() -> None:
    found = values(sweep.sweep, "--seeds", "0", "1", "--refresh", "train", "--refresh", "evaluate")
    assert found == {"seeds": [0, 1], "refresh": ["train", "evaluate"]}


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_every_parameter_has_an_option(flow: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments.parse(flow.fn, "", ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name in get_type_hints(flow.fn):
        if name != "return":
            assert f"--{name.replace('_', '-')}" in shown
            assert arguments.schema(flow.fn, name)["description"].split()[0] in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epochs", "0"], "parameter epochs: found '0'; expected a whole number from 1 on."),
        (["--seed", "x"], "parameter seed: found 'x'; expected a whole number from 0 to 4294967295."),
        (["--score-threshold", "3"], "parameter score_threshold: found '3'; expected a number from 0 to 1"),
        (
            ["--device", "gpu"],
            "parameter device: found 'gpu'; expected a text such as cpu or cuda or cuda:1.",
        ),
        (["--processes", "-2"], "parameter processes: found '-2'; expected a whole number from 1 to 1024."),
        (["--refresh", "all"], "found 'all'; expected a list, each one of prepare, convert, train, evaluate"),
        (["--seed", "-1", "--epochs", "a"], "Correct them."),
    ],
    ids=["epochs", "seed", "threshold", "device", "processes", "refresh", "two"],
)
def test_value_that_does_not_fit_is_named(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        values(train_eval.train_eval, *words)
    assert said in str(error.value)


def test_command_line_ends_with_1_before_prefect_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_eval.main(["--epochs", "0"]) == 1
    assert capsys.readouterr().err.startswith("train-eval: parameter epochs: found '0'")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epochs": 0}, "'epochs'. Failure reason: 0 is less than the minimum of 1"),
        ({"seed": "abc"}, "'seed'. Failure reason: 'abc' is not of type 'integer'"),
        ({"device": "gpu"}, "'device'. Failure reason: 'gpu' does not match"),
        ({"refresh": ["all"]}, "'refresh[0]'. Failure reason: 'all' is not one of ['prepare', 'convert'"),
        ({"epochs": "abc"}, "'epochs'. Failure reason: 'abc' is not of type 'integer'"),
        ({"refresh": "train"}, "'refresh'. Failure reason: 'train' is not of type 'array'"),
        ({"score_threshold": 1.5}, "'score_threshold'. Failure reason: 1.5 is greater than the maximum of 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_server_names_the_parameter_and_what_is_expected(given: dict[str, Any], said: str) -> None:
    """What `prefect deployment run train-eval --param epochs=0` shows: the server validates by the schema."""
    shown = parameter_schema(train_eval.train_eval).model_dump()
    with pytest.raises(ValidationError) as error:
        validate(given, shown, raise_on_error=True)
    assert said in str(error.value)


@pytest.mark.parametrize("deployment", deployments(), ids=lambda deployment: deployment.name)
def test_form_describes_every_parameter(deployment: Any) -> None:
    fields = deployment._parameter_openapi_schema.properties
    assert fields
    for name, field in fields.items():
        assert field["description"], name
        assert "default" in field, name


def test_form_may_be_sent_with_what_was_left_empty() -> None:
    """It sends null for an empty field."""
    shown = parameter_schema(train_eval.train_eval).model_dump()
    empty = dict.fromkeys(("epochs", "score_threshold", "device", "store"))
    assert validate({"config": "mask_rcnn", "refresh": [], **empty}, shown, raise_on_error=True) == []


def test_form_shows_limits_and_examples_in_words() -> None:
    fields = parameter_schema(train_eval.train_eval).properties
    assert fields["score_threshold"]["description"].endswith("as in the config. From 0 to 1.")
    assert fields["epochs"]["description"].endswith(" From 1 on.")
    assert fields["device"]["description"].endswith(" Such as cpu, cuda or cuda:1.")
    assert fields["config"]["description"].endswith("faster_rcnn or mask_rcnn_r50_fpn_1x_coco.")
    assert fields["refresh"]["description"] == "Steps that run although they are done."


def test_one_description_for_all_flows() -> None:
    seeds = {str(get_type_hints(flow.fn, include_extras=True).get("store")) for flow in FLOWS}
    assert seeds == {str(parameters.Store)}


def test_every_step_can_be_refreshed() -> None:
    assert get_args(parameters.StepName) == PIPELINE


def test_good_names_pass(tmp_path: Path) -> None:
    arguments.check({"config": "mask_rcnn", "dataset": "sample", "score_threshold": None})
    arguments.check({"dataset": "sample", "store": str(tmp_path)})
    arguments.check({"configs": ["mask_rcnn", "faster_rcnn"], "dataset": "coco"})


def test_each_config_of_a_sweep_is_looked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["--configs", "mask_rcnn", "mask_rccn"]) == 1
    assert "sweep: config 'mask_rccn': found neither" in capsys.readouterr().err


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


class Done:
    """A step whose receipt verifies, or not."""

    def __init__(self, receipt: Any, *, missing: bool = False) -> None:
        self.found, self.missing = receipt, missing

    def key(self, request: Any) -> str:
        if self.missing:
            raise DatasetError("found no data; expected some")
        return "key-1"

    def receipt(self, key: str) -> tuple[Any, str]:
        return self.found, ""


class Called:
    """The flow `train-eval`, which only notes that it was called."""

    name, fn, called = "train-eval", staticmethod(train_eval.train_eval.fn), False

    def __call__(self, **parameters: Any) -> None:
        self.called = True


MEASURED = SimpleNamespace(value={"metrics": {"bbox_mAP": 0.25, "other": 1.0}})


@pytest.mark.parametrize(
    ("last", "more", "server", "started"),
    [
        (Done(MEASURED), [], "", False),
        (Done(None), [], "", True),
        (Done(None, missing=True), [], "", True),
        (Done(MEASURED), ["--refresh", "train"], "", True),
        (Done(MEASURED), [], "http://127.0.0.1:1/api", True),
    ],
    ids=["all done", "one is not", "an input is missing", "refreshed", "with a server"],
)
def test_nothing_is_started_without_a_server_when_all_is_done(
    last: Done,
    more: list[str],
    server: str,
    started: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flow = Called()
    steps = {name: Done(SimpleNamespace(value=None)) for name in ("prepare", "convert", "train", "format")}
    monkeypatch.setattr(registry, "STEPS", {**steps, "evaluate": last})
    with temporary_settings({PREFECT_API_URL: server or None}):
        assert arguments.main(flow, None, more, train_eval.STEPS) == 0  # type: ignore[arg-type]
    assert flow.called is started
    said = capsys.readouterr().out
    assert ("evaluate: bbox_mAP 0.2500" in said and "nothing to do" in said) is not started
