"""The command line that the flows share: `python -m flows.<name> --config mask_rcnn`.

Options, help and checks come from the types of the flow's parameters (``flows.parameters``).
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import os
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

if TYPE_CHECKING:
    from prefect import Flow

KINDS = {"integer": "a whole number", "number": "a number", "string": "a text", "boolean": "true or false"}


def main(
    flow: Flow[..., Any],
    description: str | None,
    argv: Sequence[str] | None,
    steps: Sequence[str] | None = None,
) -> int:
    """Run a flow with parameters from the command line; every parameter of the flow has an option.

    Args:
        flow: what is run.
        description: of the help.
        argv: the words; None for the command line's.
        steps: what the flow runs after the data set's steps, if that is all: without a server nothing is
            started when all of it is done.
    """
    return run(flow, parse(flow.fn, description, argv), steps)


def parse(
    function: Callable[..., Any], description: str | None, argv: Sequence[str] | None
) -> dict[str, Any]:
    """The parameters that are given on the command line, as texts; ``check`` makes values of them."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, parameter in inspect.signature(function).parameters.items():
        found = schema(function, name)
        many: dict[str, Any] = {"action": "extend", "nargs": "+"} if found.get("type") == "array" else {}
        parser.add_argument(
            f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, metavar=_metavar(name, bool(many)),
            help=_help(found, parameter.default), **many,
        )  # fmt: skip
    parser.add_argument("--verbose", action="store_true", help="show the traceback of an error")
    return vars(parser.parse_args(argv))


def schema(function: Callable[..., Any], name: str) -> dict[str, Any]:
    """What a parameter is when it is given, as JSON schema."""
    found: dict[str, Any] = TypeAdapter(_types(function)[name]).json_schema()
    given = [choice for choice in found.get("anyOf", []) if choice.get("type") != "null"]
    return {**found, **given[0]} if given else found


def run(flow: Flow[..., Any], parameters: dict[str, Any], steps: Sequence[str] | None = None) -> int:
    """Run a flow here; 0 when it completes, 1 on an error of the user, told without a traceback."""
    from detector.errors import DetectorError

    verbose = parameters.pop("verbose", False)
    os.environ.setdefault("PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL", "INFO")
    try:
        values = {**_defaults(flow.fn), **values_of(flow.fn, parameters)}
        check(values)
        if steps is not None and (said := done_before(values, steps)):
            print("\n".join([*said, f"{flow.name}: nothing to do"]))
            return 0
        if not verbose:
            quiet()
        flow(**values)
    except DetectorError as error:
        if verbose:
            raise
        print(f"{flow.name}: {error}", file=sys.stderr)
        return 1
    return 0


def done_before(values: Mapping[str, Any], steps: Sequence[str]) -> list[str]:
    """A line for every step, if all are done and no server is there to keep a record of a run; else nothing.

    Without a server Prefect starts one for the run, which takes far longer than to see that nothing is to do.
    """
    from prefect.settings import PREFECT_API_URL

    from detector.errors import DetectorError
    from tasks.registry import DATA_STEPS, STEPS
    from tasks.report import headline
    from tasks.request import DataRequest, Request

    if values.get("refresh") or values.get("task_runner") or PREFECT_API_URL.value():
        return []
    given = {name: value for name, value in values.items() if name not in ("refresh", "task_runner")}
    request = Request(**given) if "config" in given else None
    data = request.data if request else DataRequest(**given)
    asked = [(name, data) for name in DATA_STEPS if data] + [(name, request) for name in steps]
    lines = []
    for name, one in asked:
        try:
            key = STEPS[name].key(one)
        except DetectorError:  # an input is missing: the run will say so
            return []
        receipt, _ = STEPS[name].receipt(key)
        if receipt is None:
            return []
        lines.append(f"{name}: up to date ({key})")
        metrics = (receipt.value or {}).get("metrics", {}) if isinstance(receipt.value, dict) else {}
        lines += [f"{name}: {metric} {metrics[metric]:.4f}" for metric in headline(metrics)]
    return lines


def values_of(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with the types that the function wants.

    Raises:
        ConfigError: values that do not fit; each is named with what was found and what is expected.
    """
    from detector.errors import ConfigError

    values, wrong = {}, []
    for name, value in given.items():
        try:
            values[name] = TypeAdapter(_types(function)[name]).validate_python(value)
        except ValidationError as error:
            found = error.errors()[0]["input"]
            wrong.append(f"parameter {name}: found {found!r}; expected {expected(schema(function, name))}.")
    if wrong:
        raise ConfigError(" ".join([*wrong, f"Correct {'it' if len(wrong) == 1 else 'them'}."]))
    return values


def expected(found: Mapping[str, Any]) -> str:
    """What a JSON schema asks for, in words."""
    if "enum" in found:
        return f"one of {', '.join(map(str, found['enum']))}"
    if found.get("type") == "array":
        least = "at least one of" if found.get("minItems") else "a list, each"
        return f"{least} {expected(found['items'])}"
    text = KINDS.get(str(found.get("type")), "another value")
    low, high = found.get("minimum"), found.get("maximum")
    if low is not None:
        text += f" from {low} to {high}" if high is not None else f" from {low} on"
    examples = found.get("examples") or []
    return f"{text} such as {' or '.join(map(str, examples))}" if examples else text


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def _types(function: Callable[..., Any]) -> dict[str, Any]:
    return typing.get_type_hints(function, include_extras=True)


def _help(found: Mapping[str, Any], default: Any) -> str:
    choices = found.get("enum") or found.get("items", {}).get("enum")
    text = f"{found['description']}{' One of ' + ', '.join(map(str, choices)) + '.' if choices else ''}"
    return (text if default in (None, []) else f"{text} (default: {_shown(default)})").replace("%", "%%")


def _metavar(name: str, many: bool) -> str:
    return name.removesuffix("s").upper() if many and not name.endswith("ss") else name.upper()


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else json.dumps(value).strip('"')


def check(parameters: Mapping[str, Any]) -> None:
    """Find what is named, so that a wrong name is told before Prefect starts.

    Raises:
        DetectorError: there is no such config, data set or published model.
    """
    from detector.data.download import DATASETS
    from detector.errors import DatasetError
    from tasks.request import DataRequest, Request

    configs = parameters.get("configs") or [parameters[name] for name in ("config",) if name in parameters]
    dataset = parameters.get("dataset", "sample")
    for config in configs:
        request = Request(config, dataset)
        _ = request.name, request.data
    if "names" in parameters:
        from tasks.zoo_eval import chosen

        chosen(parameters["names"])
    if configs or "dataset" not in parameters:
        return
    data = DataRequest(dataset, parameters.get("store"))
    if data.dataset not in DATASETS and not data.recipe():
        raise DatasetError(
            f"dataset '{data.dataset}': no such data set; expected one of {', '.join(sorted(DATASETS))}. "
            "Correct the name."
        )


def quiet() -> None:
    """Log the user's errors in a flow as one message: Prefect adds tracebacks to all of them."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    from detector.errors import DetectorError

    if record.exc_info and isinstance(record.exc_info[1], DetectorError):
        record.exc_info = None
    return True
