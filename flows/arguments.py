"""The command line that the flows share: `python -m flows.<name> --config mask_rcnn`."""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from prefect import Flow

StepName = Literal["prepare", "convert", "train", "evaluate", "format"]

OPTIONS: dict[str, dict[str, Any]] = {
    "config": {"default": "mask_rcnn", "help": "family name, full config name or path (default: mask_rcnn)"},
    "dataset": {
        "default": "sample",
        "help": "data set for a family name (default: sample); a full config brings its own",
    },
    "seed": {"type": int, "default": 0, "help": "seed of the training (default: 0)"},
    "epochs": {"type": int, "help": "replaces the length of the config's schedule"},
    "score_threshold": {
        "type": float,
        "help": "detections below are not evaluated or submitted (default: as in the config)",
    },
    "device": {"help": "cpu, cuda or cuda:N (default: the first GPU, otherwise the CPU)"},
    "processes": {"type": int, "default": 1, "help": "training processes, one per GPU (default: 1)"},
    "store": {"help": "folder for downloads (default: $DETECTOR_DATASETS, otherwise .datasets)"},
    "refresh": {
        "action": "append",
        "choices": get_args(StepName),
        "metavar": "STEP",
        "help": f"run a step although it is done, may be given again: {', '.join(get_args(StepName))}",
    },
}


def main(flow: Flow[..., Any], description: str | None, argv: Sequence[str] | None) -> int:
    """Run a flow with parameters from the command line; every parameter of the flow has an option."""
    return run(flow, parse(description, list(inspect.signature(flow.fn).parameters), argv))


def parse(description: str | None, names: Sequence[str], argv: Sequence[str] | None) -> dict[str, Any]:
    """The flow's parameters from the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", **OPTIONS[name])
    parser.add_argument("--verbose", action="store_true", help="show the traceback of an error")
    return vars(parser.parse_args(argv))


def run(flow: Callable[..., Any], parameters: dict[str, Any]) -> int:
    """Run a flow here; 0 when it completes, 1 on an error of the user, told without a traceback."""
    from detector.errors import DetectorError

    verbose = parameters.pop("verbose", False)
    os.environ.setdefault("PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL", "INFO")
    try:
        check(parameters)
        if not verbose:
            quiet()
        flow(**parameters)
    except DetectorError as error:
        if verbose:
            raise
        print(f"{getattr(flow, 'name', 'flow')}: {error}", file=sys.stderr)
        return 1
    return 0


def check(parameters: Mapping[str, Any]) -> None:
    """Find the config and its data set, so that a wrong name is told before Prefect starts.

    Raises:
        DetectorError: there is no such config or data set.
    """
    from detector.data.download import DATASETS
    from detector.errors import DatasetError
    from tasks.request import DataRequest, Request

    parameters = {name: value for name, value in parameters.items() if name != "refresh"}
    if "config" in parameters:
        request = Request(**parameters)
        _ = request.name, request.data
        return
    data = DataRequest(**parameters)
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
