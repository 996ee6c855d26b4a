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
from flows.parameters import (
    NO_STEPS,
    Config,
    Dataset,
    Device,
    Epochs,
    Processes,
    Refresh,
    ScoreThreshold,
    Seed,
    Store,
)
from tasks import prefect_tasks
from tasks.request import Request

STEPS = ("train", "evaluate", "format")  # after those of the data set


@flow(name="train-eval", flow_run_name=prefect_tasks.run_name, persist_result=False)
def train_eval(
    config: Config = "mask_rcnn",
    dataset: Dataset = "sample",
    seed: Seed = 0,
    epochs: Epochs = None,
    score_threshold: ScoreThreshold = None,
    device: Device = None,
    processes: Processes = 1,
    store: Store = None,
    refresh: Refresh = NO_STEPS,
) -> list[dict[str, Any]]:
    """Prepare the data, train, evaluate and format; everything already done is taken from the cache."""
    request = Request(config, dataset, seed, epochs, score_threshold, device, processes, store)
    done = prefect_tasks.run_all(request, STEPS, refresh)
    prefect_tasks.publish("train-eval", request, done)
    return done


def main(argv: Sequence[str] | None = None) -> int:
    """Run the flow in this process."""
    return arguments.main(train_eval, __doc__, argv, STEPS)


if __name__ == "__main__":
    sys.exit(main())
