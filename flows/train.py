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
from flows.arguments import StepName
from tasks import prefect_tasks
from tasks.request import Request


@flow(name="train", flow_run_name=prefect_tasks.run_name, persist_result=False)
def train(
    config: str = "mask_rcnn",
    dataset: str = "sample",
    seed: int = 0,
    epochs: int | None = None,
    device: str | None = None,
    processes: int = 1,
    store: str | None = None,
    refresh: list[StepName] | None = None,
) -> list[dict[str, Any]]:
    """Train a detector; everything already done is taken from the cache.

    Args:
        config: A family name such as mask_rcnn, a full config name, or the path of a config file.
        dataset: The data for a family name; a full config brings its own.
        seed: Seed of everything random in the training.
        epochs: Replaces the length of the config's schedule.
        device: cpu, cuda or cuda:N; empty takes the first GPU, otherwise the CPU.
        processes: Training processes, one per GPU.
        store: Folder for downloads; empty means DETECTOR_DATASETS, otherwise .datasets in this folder.
        refresh: Steps that run although they are done.
    """
    request = Request(config, dataset, seed, epochs, device=device, processes=processes, store=store)
    done = prefect_tasks.run_all(request, ("train",), refresh)
    prefect_tasks.publish("train", request, done)
    return done


def main(argv: Sequence[str] | None = None) -> int:
    """Run the flow in this process."""
    return arguments.main(train, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
