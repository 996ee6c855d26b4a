"""Trains with images in file order and writes every loss unrounded: CONFIG WORK_DIR SAMPLES OUT.

One process, or as many as the environment says (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detector.config import load_config
from detector.data.loader import build_train_loader
from detector.engine import distributed, train
from detector.engine.log import TrainLog


def main(config: str, work_dir: str, samples: str, out: str) -> None:
    """Train; process 0 writes a list with the values of every iteration."""
    values: list[dict[str, float]] = []

    class Recording(TrainLog):
        """Keeps what the log would round."""

        def train(self, head: Any, means: Mapping[str, float], *others: Any, **named: Any) -> None:
            """One iteration's values."""
            values.append(dict(means))
            super().train(head, means, *others, **named)

    vars(train)["TrainLog"] = Recording
    vars(train)["build_train_loader"] = functools.partial(build_train_loader, shuffle=False)
    loaded = load_config(config, {"data.samples_per_gpu": int(samples), "data.workers_per_gpu": 0})
    with distributed.session("pytorch" if "RANK" in os.environ else "none", "gloo", device="cpu"):
        train.train(loaded, work_dir=Path(work_dir), seed=3, device="cpu", validate=False)
        if distributed.rank() == 0:
            Path(out).write_text(json.dumps(values))


if __name__ == "__main__":
    main(*sys.argv[1:])
