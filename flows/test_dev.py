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
from flows.parameters import NO_STEPS, Config, Dataset, Device, Refresh, ScoreThreshold, Seed, Store
from tasks import prefect_tasks
from tasks.request import Request

STEPS = ("format",)  # after those of the data set


@flow(name="test-dev", flow_run_name=prefect_tasks.run_name, persist_result=False)
def format_test_dev(
    config: Config = "mask_rcnn",
    dataset: Dataset = "sample",
    seed: Seed = 0,
    score_threshold: ScoreThreshold = None,
    device: Device = None,
    store: Store = None,
    refresh: Refresh = NO_STEPS,
) -> list[dict[str, Any]]:
    """Write submission files for the test split of a trained detector's data set."""
    request = Request(config, dataset, seed, score_threshold=score_threshold, device=device, store=store)
    done = prefect_tasks.run_all(request, STEPS, refresh)
    prefect_tasks.publish("test-dev", request, done)
    return done


def main(argv: Sequence[str] | None = None) -> int:
    """Run the flow in this process."""
    return arguments.main(format_test_dev, __doc__, argv, STEPS)


if __name__ == "__main__":
    sys.exit(main())
