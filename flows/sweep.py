"""Flow `sweep`: several configs, seeds or overrides, each trained and evaluated, and compared.

Makes what `train-eval` makes for each of them, found done where that or a sweep ran before, and
``runs/sweeps/<name>/sweep.json``. Run it with `python -m flows.sweep --configs mask_rcnn faster_rcnn --seeds
0 1 2`, or as `prefect deployment run sweep --param 'seeds=[0, 1, 2]'`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from detector.errors import DetectorError
from flows import arguments
from flows.parameters import (
    AS_THEY_ARE,
    NO_STEPS,
    AtOnce,
    Configs,
    Dataset,
    Device,
    Epochs,
    Processes,
    Refresh,
    ScoreThreshold,
    Seeds,
    Store,
    Variants,
)
from tasks import devices, prefect_artifacts, prefect_sweep, sweeps
from tasks.request import Request


def run_name() -> str:
    """The name of the running flow's run: what is compared."""
    asked = flow_run.parameters
    variants = asked["overrides"] or [""]
    return f"{'-'.join(asked['configs'])}-{len(asked['seeds']) * len(variants)}-each"


@flow(name="sweep", flow_run_name=run_name, persist_result=False)
def sweep(
    configs: Configs = ["mask_rcnn"],  # noqa: B006 - Prefect shows it in the form; nobody changes it
    seeds: Seeds = [0, 1, 2],  # noqa: B006
    overrides: Variants = AS_THEY_ARE,
    dataset: Dataset = "sample",
    epochs: Epochs = None,
    score_threshold: ScoreThreshold = None,
    device: Device = None,
    processes: Processes = 1,
    at_once: AtOnce = None,
    store: Store = None,
    refresh: Refresh = NO_STEPS,
) -> list[dict[str, Any]]:
    """Train and evaluate every config with every seed and override, and compare them in one MLflow run."""
    asked = dict(locals())
    shared = Request(configs[0], dataset, 0, epochs, score_threshold, device, processes, store)
    members = sweeps.members(shared, configs, seeds, overrides)
    places = at_once or devices.capacity(device, processes)
    with sweeps.tracked(members, asked, get_run_logger().info):
        prefect_sweep.prepare(members, refresh)
        prefect_sweep.run(members, places, refresh)
    rows = sweeps.rows(members)
    prefect_artifacts.compare("sweep", sweeps.page(members), rows, "The runs of the sweep")
    if said := sweeps.failure(members):
        raise DetectorError(said)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the flow in this process."""
    return arguments.main(sweep, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
