"""The steps by name, in the order in which they run."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from tasks import convert, evaluate, prepare, submit, train
from tasks.request import DataRequest, Request
from tasks.steps import Step

STEPS: dict[str, Step[Any]] = {
    step.name: step for step in (prepare.STEP, convert.STEP, train.STEP, evaluate.STEP, submit.STEP)
}
DATA_STEPS = ("prepare", "convert")  # these take a DataRequest, the others a Request


def command(name: str, request: Request | DataRequest) -> list[str]:
    """The command line that runs a step in a process of its own, with exactly this request."""
    return [sys.executable, "-u", "-m", "tasks", name, "--request", json.dumps(asdict(request))]


def request_for(name: str, request: Request) -> Request | DataRequest:
    """The request that a step takes: the data set's part for the steps that know no config."""
    if name in DATA_STEPS:
        return DataRequest(dataset=request.dataset, store=request.store)
    return request
