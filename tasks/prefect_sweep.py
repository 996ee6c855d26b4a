"""Running several trainings side by side in one flow, so that a cancel still ends all of them.

Prefect gives its signal to the flow's own thread alone, and the runs are in threads of their own, each
waiting for a process of a step. So the flow's thread waits for the runs, and what ends its waiting ends
their processes.
"""

from __future__ import annotations

import contextvars
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from prefect.logging import get_run_logger

from tasks import prefect_tasks
from tasks.launch import MARKS
from tasks.registry import DATA_STEPS
from tasks.sweeps import STEPS_OF_EACH, Member

if TYPE_CHECKING:
    import psutil

GRACE = prefect_tasks.GRACE  # seconds between SIGTERM and SIGKILL


def prepare(members: Sequence[Member], refresh: Sequence[str] | None) -> None:
    """Bring the data of all members into the project, each data set once, in the flow's own thread."""
    failed: dict[Any, str] = {}
    for data in dict.fromkeys(member.request.data for member in members):
        try:
            for name in DATA_STEPS if data else ():
                prefect_tasks.run(name, data, refresh)
        except Exception as error:
            failed[data] = f"{type(error).__name__}: {error}"
    for member in members:
        member.error = failed.get(member.request.data, "")


def run(
    members: Sequence[Member],
    at_once: int,
    refresh: Sequence[str] | None = None,
    *,
    steps: Sequence[str] = STEPS_OF_EACH,
) -> None:
    """Run the steps of the members that have no error yet; one that fails leaves the others alone.

    Args:
        members: what became of them is noted in them.
        at_once: how many run at a time; the others queue.
        refresh: steps that run although they are done.
        steps: of each member, in order.
    """
    stopping = threading.Event()
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="sweep")
    started = [
        pool.submit(contextvars.copy_context().run, _member, member, steps, refresh, stopping)
        for member in members
        if not member.error
    ]
    try:
        wait(started)
    except BaseException:  # cancel, Ctrl-C, SIGTERM: the processes of all members go with us
        stopping.set()
        pool.shutdown(wait=False, cancel_futures=True)
        stop(started)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _member(
    member: Member, steps: Sequence[str], refresh: Sequence[str] | None, stopping: threading.Event
) -> None:
    try:
        for name in steps:
            if stopping.is_set():
                return
            member.done.append(_step(name, member, refresh, stopping))
    except Exception as error:
        member.error = str(error) or type(error).__name__
        with suppress(Exception):  # no flow around it, or its server is gone: the flow tells it at its end
            get_run_logger().error("%s failed: %s", member.label, member.error)


def _step(
    name: str, member: Member, refresh: Sequence[str] | None, stopping: threading.Event
) -> dict[str, Any]:
    def retry(task: Any, task_run: Any, state: Any) -> bool:
        return not stopping.is_set() and prefect_tasks.worth_retrying(task, task_run, state)

    shown = f"{name} {member.label}".replace("{", "(").replace("}", ")")
    return prefect_tasks.run(name, member.request, refresh, task_run_name=shown, retry_condition_fn=retry)


def stop(started: Sequence[Future[Any]]) -> None:
    """End the processes of steps that threads of ours wait for: SIGTERM, and SIGKILL after GRACE.

    A thread may start one more process before it sees that it is to stop, so this goes on until all ended.
    """
    told: set[int] = set()
    end = time.monotonic() + GRACE
    try:
        while not all(future.done() for future in started) and time.monotonic() < end:
            for child in _launched():
                if child.pid not in told:
                    told.add(child.pid)
                    _send(child, "terminate")
            wait(started, timeout=0.1)
    finally:
        for child in _launched():
            _send(child, "kill")  # its thread then kills what it leaves behind


def _launched() -> Iterator[psutil.Process]:
    """The children that ``launch`` has started: they carry one mark more than this process."""
    import psutil

    ours = os.environ.get(MARKS, "")
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child.environ().get(MARKS, ours) != ours:
                yield child


def _send(process: psutil.Process, what: str) -> None:
    import psutil

    with suppress(psutil.NoSuchProcess):
        getattr(process, what)()
