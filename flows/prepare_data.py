"""Flow `prepare-data`: a data set downloaded or generated, linked and converted to COCO annotations.

Makes ``data/<dataset>/source.json``, the links beside it and ``data/<dataset>/annotations``.
Run it with `python -m flows.prepare_data --dataset sample`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from prefect import flow

from flows import arguments
from flows.parameters import NO_STEPS, DataName, Refresh, Store, TaskRunner
from tasks import prefect_cluster, prefect_tasks
from tasks.request import DataRequest


@flow(name="prepare-data", flow_run_name="{dataset}", persist_result=False)
def prepare_data(
    dataset: DataName = "sample",
    store: Store = None,
    task_runner: TaskRunner = None,
    refresh: Refresh = NO_STEPS,
) -> list[dict[str, Any]]:
    """Bring a data set into the project: download or generate, link, convert."""
    request = DataRequest(dataset=dataset, store=store)
    prepared = prefect_tasks.run("prepare", request, refresh)
    if prefect_cluster.wanted(task_runner):
        return [prepared, prefect_cluster.convert(request, refresh)]
    return [prepared, prefect_tasks.run("convert", request, refresh)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the flow in this process."""
    return arguments.main(prepare_data, __doc__, argv, ())


if __name__ == "__main__":
    sys.exit(main())
