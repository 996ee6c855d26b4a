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
from flows.arguments import StepName
from tasks import prefect_tasks
from tasks.request import DataRequest


@flow(name="prepare-data", flow_run_name="{dataset}", persist_result=False)
def prepare_data(
    dataset: str = "sample", store: str | None = None, refresh: list[StepName] | None = None
) -> list[dict[str, Any]]:
    """Bring a data set into the project: download or generate, link, convert.

    Args:
        dataset: Name of the data set, e.g. sample or cityscapes.
        store: Folder for downloads; empty means DETECTOR_DATASETS, otherwise .datasets in this folder.
        refresh: Steps that run although they are done.
    """
    request = DataRequest(dataset=dataset, store=store)
    return [prefect_tasks.run(step, request, refresh) for step in ("prepare", "convert")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the flow in this process."""
    return arguments.main(prepare_data, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
