"""`python -m tasks <step>`: run one step, as the stages of dvc.yaml do. params.yaml gives the defaults.

`python -m tasks data verify|record` compares data with its manifest, `python -m tasks cache list|why|prune`
shows and clears what the steps have made, `python -m tasks tracking sync` tells MLflow what it was not told;
each has a --help of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import yaml

from detector.cli import leave
from detector.errors import ConfigError, DetectorError
from tasks import cache_command, data_command, tracking_command
from tasks.launch import ProcessError
from tasks.registry import DATA_STEPS, STEPS, request_for
from tasks.request import Request

PARAMS_FILE = Path("params.yaml")
UNTRACKED = {"processes", "device", "store", "overrides"}  # no stage of dvc.yaml has them among its params


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m tasks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("step", choices=list(STEPS))
    made.add_argument("--config", help="family name, full config name or path; for zoo_eval a published name")
    made.add_argument("--dataset", help="data set for a family name, and for prepare and convert")
    made.add_argument("--seed", type=int)
    made.add_argument("--epochs", type=int, help="replaces the length of the config's schedule")
    made.add_argument("--overrides", nargs="+", metavar="KEY=VALUE", help="values over the config's")
    made.add_argument(
        "--score-threshold", type=_threshold, default=argparse.SUPPRESS,
        help="detections below are not evaluated or submitted; none: as in the config",
    )  # fmt: skip
    made.add_argument("--device", help="cpu, cuda or cuda:N (default: the first GPU, otherwise the CPU)")
    made.add_argument("--processes", type=int, help="training processes, one per GPU")
    made.add_argument("--store", help="folder for downloads (default: $DETECTOR_DATASETS or .datasets)")
    made.add_argument("--refresh", action="store_true", help="run the step although it is done")
    made.add_argument("--request", help=argparse.SUPPRESS)  # JSON of everything; params.yaml is not read then
    made.add_argument("--verbose", action="store_true", help="show the traceback of an error")
    return made


def _threshold(text: str) -> float | None:
    return None if text.lower() == "none" else float(text)


def params() -> dict[str, Any]:
    """The values of params.yaml.

    Raises:
        ConfigError: the file is missing or is not a mapping of known names.
    """
    try:
        data = yaml.safe_load(PARAMS_FILE.read_text())
    except FileNotFoundError as error:
        raise ConfigError(
            f"{Path.cwd()}: found no params.yaml; expected the project's folder. Change to it first."
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{PARAMS_FILE}: found no valid YAML; expected `name: value` lines. {error}"
        ) from error
    known = Request.__dataclass_fields__
    unknown = sorted(set(data) - set(known)) if isinstance(data, dict) else [str(data)]
    if unknown:
        raise ConfigError(
            f"{PARAMS_FILE}: found {unknown}; expected names among {sorted(known)}. Remove or correct them."
        )
    return dict(data)


def request_from(arguments: argparse.Namespace) -> Request:
    """The request: the command line's values over those of params.yaml.

    Raises:
        ConfigError: DVC runs this with a config name that is not the one its outputs are named after.
    """
    if arguments.request is not None:
        return Request(**json.loads(arguments.request))
    given = {
        name: value for name, value in vars(arguments).items()
        if name in Request.__dataclass_fields__ and (value is not None or name == "score_threshold")
    }  # fmt: skip
    values = params()
    request = Request(**{**values, **given})
    if "DVC_STAGE" in os.environ:
        _check_tracked(values)
        if arguments.step in DATA_STEPS:
            _check_place(request.dataset, request_for(arguments.step, request).dataset)
        else:
            _check_named(request)
    return request


def _check_tracked(values: Mapping[str, Any]) -> None:
    """Refuse values of params.yaml that no stage of dvc.yaml depends on."""
    if unknown := sorted(UNTRACKED & set(values)):
        raise ConfigError(
            f"{PARAMS_FILE}: found {', '.join(unknown)}; expected only what dvc.yaml names as params: DVC "
            "would not notice a change. Remove it; the store can be given as DETECTOR_DATASETS, the others "
            "on the command line of `python -m tasks`."
        )


def _check_named(request: Request) -> None:
    """Refuse a config whose outputs or data are not where dvc.yaml says."""
    if request.config != request.name:
        raise ConfigError(
            f"{PARAMS_FILE}: found config: {request.config}; expected a full name: dvc.yaml names the "
            f"outputs after it. Write config: {request.name}."
        )
    if request.data:
        _check_place(request.dataset, request.data.dataset)


def _check_place(found: str, expected: str) -> None:
    """Refuse a data set whose folder below ``data/`` is not the one that dvc.yaml names."""
    if found != expected:
        raise ConfigError(
            f"{PARAMS_FILE}: found dataset: {found}; expected the one that is read: dvc.yaml prepares that "
            f"one. Write dataset: {expected}."
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; 0 when it is done, 1 on an error of the user, above 128 after a signal."""
    words = list(sys.argv[1:] if argv is None else argv)
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        return _run(words)
    except DetectorError as error:
        if "--verbose" in words:
            raise
        print(f"{words[0]}: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, ProcessError) else 1
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(words: Sequence[str]) -> int:
    if words[:1] == ["data"]:
        return data_command.main(words[1:], _say)
    if words[:1] == ["cache"]:
        return cache_command.main(words[1:], _asked, _say)
    if words[:1] == ["tracking"]:
        return tracking_command.main(words[1:], _say)
    arguments = parser().parse_args(words)
    request = request_from(arguments)
    step, asked = STEPS[arguments.step], request_for(arguments.step, request)
    if arguments.refresh:
        step.forget(asked)
    step.ensure(asked, log=_say)
    return 0


def _asked(words: Sequence[str]) -> tuple[str, Request]:
    arguments = parser().parse_args(words)
    return arguments.step, request_from(arguments)


def _say(text: str) -> None:
    print(text, flush=True)


def _terminated(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def _leave() -> NoReturn:
    """Run, and end at once when a signal asked for that (see ``detector.cli.leave``)."""
    try:
        code: str | int | None = main()
    except SystemExit as ended:
        code = ended.code
    leave(code)


if __name__ == "__main__":
    _leave()
