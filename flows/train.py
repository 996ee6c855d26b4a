"""Flow `train`: data prepared if needed, then a training with its MLflow run.

Makes ``runs/<config>/seed<seed>/model.pth`` and ``loss.csv``. Run it with `python -m flows.train --config
mask_rcnn`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from prefect import flow

from flows import arguments
from flows.parameters import NO_STEPS, Config, Dataset, Device, Epochs, Processes, Refresh, Seed, Store
from tasks import prefect_tasks
from tasks.request import Request

STEPS = ("train",)  # after those of the data set


@flow(name="train", flow_run_name=prefect_tasks.run_name, persist_result=False)
def train(
    config: Config = "mask_rcnn",
    dataset: Dataset = "sample",
    seed: Seed = 0,
    epochs: Epochs = None,
    device: Device = None,
    processes: Processes = 1,
    store: Store = None,
    refresh: Refresh = NO_STEPS,
) -> list[dict[str, Any]]:
    """Train a detector; everything already done is taken from the cache."""
    request = Request(config, dataset, seed, epochs, device=device, processes=processes, store=store)
    done = prefect_tasks.run_all(request, STEPS, refresh)
    prefect_tasks.publish("train", request, done)
    return done


def main(argv: Sequence[str] | None = None) -> int:
    """Run the flow in this process."""
    return arguments.main(train, __doc__, argv, STEPS)


if __name__ == "__main__":
    sys.exit(main())
