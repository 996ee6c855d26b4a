"""Flow `train-eval`: from a config's name to a measured model and files for its test server.

Makes everything below ``runs/<config>/seed<seed>``. Run it with `python -m flows.train_eval --config
mask_rcnn`, or as `prefect deployment run train-eval --param config=mask_rcnn`.
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


@flow(name="train-eval", flow_run_name=prefect_tasks.run_name, persist_result=False)
def train_eval(
    config: str = "mask_rcnn",
    dataset: str = "sample",
    seed: int = 0,
    epochs: int | None = None,
    score_threshold: float | None = None,
    device: str | None = None,
    processes: int = 1,
    store: str | None = None,
    refresh: list[StepName] | None = None,
) -> list[dict[str, Any]]:
    """Prepare the data, train, evaluate and format; everything already done is taken from the cache.

    Args:
        config: A family name such as mask_rcnn, a full config name, or the path of a config file.
        dataset: The data for a family name; a full config brings its own.
        seed: Seed of everything random in the training.
        epochs: Replaces the length of the config's schedule.
        score_threshold: Detections below it are not evaluated or submitted; empty means as in the config.
        device: cpu, cuda or cuda:N; empty takes the first GPU, otherwise the CPU.
        processes: Training processes, one per GPU.
        store: Folder for downloads; empty means DETECTOR_DATASETS, otherwise .datasets in this folder.
        refresh: Steps that run although they are done.
    """
    request = Request(config, dataset, seed, epochs, score_threshold, device, processes, store)
    done = prefect_tasks.run_all(request, ("train", "evaluate", "format"), refresh)
    prefect_tasks.publish("train-eval", request, done)
    return done


def main(argv: Sequence[str] | None = None) -> int:
    """Run the flow in this process."""
    return arguments.main(train_eval, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
