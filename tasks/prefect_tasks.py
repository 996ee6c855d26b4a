"""The steps as cached Prefect tasks, and the report of a run in the Prefect UI.

A task's cache key is the step's own key, and Prefect's record of it is dropped when the step's receipt no
longer verifies: what Prefect shows as Cached is really there. The work runs as `python -m tasks <step>` in
a process of its own: nothing is forked from this one with its threads, and a cancel ends all that a step
started.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from prefect import Task, task
from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.logging import get_logger, get_run_logger
from prefect.runtime import flow_run
from prefect.settings import PREFECT_UI_URL

from detector.config.resolve import FAMILIES
from detector.errors import DetectorError
from tasks import launch, leases
from tasks.digests import cache_dir
from tasks.launch import ProcessError
from tasks.masking import address
from tasks.prefect_artifacts import Bar, Sparing, bar
from tasks.prefect_artifacts import publish as publish  # for the flows
from tasks.registry import DATA_STEPS, STEPS, command
from tasks.request import Request
from tasks.steps import Receipt, Step
from tasks.tracked_run import TAGS_VARIABLE

GRACE = 22.0  # seconds from SIGTERM to SIGKILL: with what launch.stop adds, before Prefect kills us after 30
RETRIES = {"prepare": 2, "train": 2}  # when killed: both go on where they stopped


@dataclass
class ReceiptPolicy(CachePolicy):
    """The step's key; a record of Prefect's counts only while the step's receipt verifies."""

    step: Step[Any] | None = None

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        """The key, or None (no caching) when an input is missing: the task itself then says so."""
        assert self.step is not None
        try:
            key = self.step.key(inputs["request"])
        except DetectorError:
            return None
        receipt, why = self.step.receipt(key)
        record = cache_dir() / "prefect" / "keys" / key
        if receipt is None and record.exists():
            get_logger("cache").warning("%s: the cached result is not used: %s", self.step.name, why)
            record.unlink(missing_ok=True)
        return key


@functools.cache
def step_task(name: str) -> Task[..., Any]:
    """The Prefect task of a step."""
    step = STEPS[name]

    def body(request: Any) -> dict[str, Any]:
        leases.hold(flow_run.id or "")
        log = _run_log()
        if step.receipt(step.key(request))[0] is None:
            _run_process(name, request, log, bar(request) if name == "train" else None)
        return summary(step.ensure(request, log=log))

    body.__name__ = body.__qualname__ = name
    folder = cache_dir().absolute() / "prefect"
    return task(
        name=name, description=step.run.__doc__, persist_result=True,
        cache_policy=ReceiptPolicy(step=step, key_storage=folder / "keys"),
        result_storage=folder / "results", result_serializer="json",
        retries=RETRIES.get(name, 0), retry_delay_seconds=2, retry_condition_fn=worth_retrying,
    )(body)  # fmt: skip


def _run_process(name: str, request: Any, log: Callable[[str], None], shown: Bar | None) -> None:
    """Run the step in a process of its own, its lines passed to the run's log and to its bar."""
    tags = {"prefect.flow_run_id": str(flow_run.id or ""), "prefect.url": flow_run_url()}
    env = {TAGS_VARIABLE: json.dumps({key: value for key, value in tags.items() if value})}
    sparing, done = Sparing(log), False

    def line(text: str) -> None:
        sparing(text)
        if shown is not None:
            shown.line(text)

    try:
        launch.run(command(name, request), what=name, log=line, env=env, grace=GRACE)
        done = True
    finally:
        sparing.say_omitted()
        if shown is not None:
            shown.close(done=done)


def run(name: str, request: Any, refresh: Sequence[str] | None = None, **options: Any) -> dict[str, Any]:
    """Run a step as a Prefect task of the running flow; one of ``refresh`` although it is done.

    The task is called in the flow's own thread, because only there a cancel reaches the training. A result
    that Prefect has kept may be older than the receipt, when DVC has made the outputs again since: what is
    returned is the receipt's. ``options`` of the task take the place of the step's own.
    """
    leases.hold(flow_run.id or "")
    if name in (refresh or ()):
        STEPS[name].forget(request)
    work = step_task(name)
    done = cast(dict[str, Any], (work.with_options(**options) if options else work)(request))
    receipt, _ = STEPS[name].receipt(done["key"])
    return done if receipt is None else summary(receipt)


def run_all(
    request: Request, names: Sequence[str], refresh: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Run the data set's steps, if the config reads one of the project's, then the named ones, in order."""
    leases.hold(flow_run.id or "")
    data = request.data
    if not is_family(request.config) and data and data.dataset != request.dataset:
        get_run_logger().info(
            "config %s reads data set %s: the parameter dataset=%s is for family names and is ignored",
            request.config, data.dataset, request.dataset,
        )  # fmt: skip
    done = [run(name, data, refresh) for name in DATA_STEPS] if data else []
    return [*done, *(run(name, request, refresh) for name in names)]


def summary(receipt: Receipt) -> dict[str, Any]:
    """What a task returns: enough for a report, no content."""
    return {
        "step": receipt.step, "key": receipt.key, "digest": receipt.digest, "seconds": receipt.seconds,
        "outputs": sorted(receipt.outputs), "value": receipt.value,
    }  # fmt: skip


def is_family(config: str) -> bool:
    """Whether ``config`` is a model's name, which needs a data set to name a config."""
    return any(config == family for family, _ in FAMILIES)


def run_name() -> str:
    """The name of the running flow's run: config, the data set of a family, and seed."""
    asked = flow_run.parameters
    names = [Path(asked["config"]).stem]
    if is_family(asked["config"]):
        names.append(asked["dataset"])
    return "-".join([*names, f"seed{asked['seed']}"])


def worth_retrying(task: Any, task_run: Any, state: Any) -> bool:
    """Whether trying again can help: after a killed process or an error of this machine's files or network.

    A step that fails by itself is not repeated: its input is wrong, or its server did not answer although the
    download has tried several times.
    """
    error = state.result(raise_on_failure=False)
    if isinstance(error, ProcessError):
        return error.by_signal
    return isinstance(error, OSError)


def flow_run_url() -> str:
    """The page of the running flow in the Prefect UI, or an empty text without a server."""
    base = PREFECT_UI_URL.value()
    return f"{address(base)}/runs/flow-run/{flow_run.id}" if base and flow_run.id else ""


def _run_log() -> Callable[[str], None]:
    logger = get_run_logger()

    def log(text: str) -> None:
        logger.log(logging.INFO, "%s", text)

    return log
