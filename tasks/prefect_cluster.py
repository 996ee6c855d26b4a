"""The conversion of a data set on a Dask cluster: its images in shards, each a Prefect task.

Off unless asked for, and only with the dependency group ``cluster``. The workers read the project's folder
at the same path as the flow (a shared disk); what they find comes back to the flow, which writes the files,
the same to the byte as without a cluster.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from detector.cores import cpu_count
from detector.data.parallel import spread_by
from detector.errors import DetectorError, MachineError
from tasks import prefect_tasks
from tasks.registry import STEPS
from tasks.request import DataRequest

VARIABLE = "DETECTOR_DASK"  # 'local', or the address of a scheduler
SHARDS = 64  # at most: a task each, of which the server keeps a record


def wanted(asked: str | None) -> bool:
    """Whether to convert on a cluster: as asked, otherwise when DETECTOR_DASK names one."""
    return asked == "dask" or (asked is None and bool(os.environ.get(VARIABLE)))


def runner() -> Any:
    """The task runner of the cluster that DETECTOR_DASK names; without it, or with 'local', one made here.

    Raises:
        MachineError: prefect-dask is not installed.
    """
    if importlib.util.find_spec("prefect_dask") is None:
        raise MachineError(
            "task_runner: found no package prefect-dask; expected it for task_runner=dask. Install the group "
            "`cluster`: `uv sync --group cluster`; or leave task_runner and DETECTOR_DASK out to convert "
            "with processes of this machine."
        )
    make = importlib.import_module("prefect_dask").DaskTaskRunner
    address = os.environ.get(VARIABLE, "")
    if address and address != "local":
        return make(address=address)
    local = {
        "n_workers": cpu_count(),
        "threads_per_worker": 1,
        "host": "127.0.0.1",
        "dashboard_address": None,
    }
    return make(cluster_kwargs=local)


def convert(request: DataRequest, refresh: Sequence[str] | None = None) -> dict[str, Any]:
    """The step `convert` on the cluster, unless it is done; its receipt is the one that others find.

    Raises:
        MachineError: prefect-dask is not installed.
    """
    step = STEPS["convert"]
    if "convert" in (refresh or ()):
        step.forget(request)
    try:
        done = step.receipt(step.key(request))[0] is not None
    except DetectorError:  # something is missing, and the step itself says what
        done = True
    if not done:
        convert_on_cluster.with_options(task_runner=runner())(request.dataset, request.store)
    return prefect_tasks.run("convert", request)


@flow(name="convert-on-cluster", flow_run_name="{dataset}", persist_result=False)
def convert_on_cluster(dataset: str, store: str | None) -> None:
    """Convert a data set with the workers of this flow's task runner."""
    logger = get_run_logger()
    with spread_by(spread):
        STEPS["convert"].ensure(DataRequest(dataset, store), log=lambda text: logger.info("%s", text))


def spread(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """Run a function over items in shards, all submitted at once; results in the order of the items."""
    size = max(1, math.ceil(len(items) / SHARDS))
    shards = [list(items[start : start + size]) for start in range(0, len(items), size)]
    futures = [work.submit(function, shard, str(Path.cwd())) for shard in shards]
    for future in futures:
        yield from future.result()


@task(name="convert-shard", cache_policy=NO_CACHE, persist_result=False)
def work(function: Callable[[Any], Any], items: list[Any], folder: str) -> list[Any]:
    """Run a function over some items in the project's folder, on whatever machine this is.

    Raises:
        MachineError: that machine has no such folder.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise MachineError(
            f"{folder}: not found on a worker of the cluster; expected the project's folder at the same path "
            "there. Share it with the workers, or start them where it is."
        ) from error
    return [function(item) for item in items]
