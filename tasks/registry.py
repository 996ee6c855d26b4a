"""The steps by name, in the order in which they run."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from typing import Any

from tasks import convert, devices, evaluate, prepare, submit, train, zoo_eval
from tasks.request import DataRequest, Request
from tasks.steps import Step
from tasks.zoo_eval import ZooRequest

STEPS: dict[str, Step[Any]] = {
    step.name: step
    for step in (
        prepare.STEP,
        convert.STEP,
        replace(train.STEP, run=devices.on_device(train.STEP.run)),
        replace(evaluate.STEP, run=devices.on_device(evaluate.STEP.run, tests=True)),
        replace(submit.STEP, run=devices.on_device(submit.STEP.run, tests=True)),
        replace(zoo_eval.STEP, run=devices.on_device(zoo_eval.STEP.run, tests=True)),
    )
}
PIPELINE = ("prepare", "convert", "train", "evaluate", "format")  # stages of dvc.yaml
DATA_STEPS = ("prepare", "convert")  # these take a DataRequest, zoo_eval a ZooRequest, the others a Request


def command(name: str, request: Request | DataRequest) -> list[str]:
    """The command line that runs a step in a process of its own, with exactly this request."""
    return [sys.executable, "-u", "-m", "tasks", name, "--request", json.dumps(asdict(request))]


def request_for(name: str, request: Request) -> Request | DataRequest:
    """The request that a step takes: the data set's part where it knows no config, a name for zoo_eval."""
    if name in DATA_STEPS:
        return DataRequest(dataset=request.dataset, store=request.store)
    return ZooRequest(**asdict(request)) if name == zoo_eval.STEP.name else request
