"""Flow `test-dev`: the test split in the formats of the test servers.

Needs the checkpoint of the same config and seed; makes ``runs/<config>/seed<seed>/submission``.
Run it with `python -m flows.test_dev --config mask_rcnn`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from prefect import flow

from flows import arguments
from flows.arguments import StepName
from tasks import prefect_tasks
from tasks.request import Request


@flow(name="test-dev", flow_run_name=prefect_tasks.run_name, persist_result=False)
def format_test_dev(
    config: str = "mask_rcnn",
    dataset: str = "sample",
    seed: int = 0,
    score_threshold: float | None = None,
    device: str | None = None,
    store: str | None = None,
    refresh: list[StepName] | None = None,
) -> list[dict[str, Any]]:
    """Write submission files for the test split of a trained detector's data set.

    Args:
        config: A family name such as mask_rcnn, a full config name, or the path of a config file.
        dataset: The data for a family name; a full config brings its own.
        seed: The seed it was trained with.
        score_threshold: Detections below it are not submitted; empty means as in the config.
        device: cpu, cuda or cuda:N; empty takes the first GPU, otherwise the CPU.
        store: Folder for downloads; empty means DETECTOR_DATASETS, otherwise .datasets in this folder.
        refresh: Steps that run although they are done.
    """
    request = Request(config, dataset, seed, score_threshold=score_threshold, device=device, store=store)
    done = prefect_tasks.run_all(request, ("format",), refresh)
    prefect_tasks.publish("test-dev", request, done)
    return done


def main(argv: Sequence[str] | None = None) -> int:
    """Run the flow in this process."""
    return arguments.main(format_test_dev, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
