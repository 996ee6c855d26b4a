"""Results travel by files: no late process and no long evaluation runs into a timeout of collectives."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.engine.gathering import Exchange, OtherProcessError, open_exchange
from detector.evaluation.results import PanopticDetections
from detector.structures.samples import Detections

PROGRAM = """
import sys, time
from datetime import timedelta
from pathlib import Path
import torch
from torch import distributed as dist
from detector.engine.gathering import open_exchange
from detector.structures.samples import Detections

rank, folder, late = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
(folder / f"ready_{rank}").touch()  # slow imports are not what is tested
while len(list(folder.glob("ready_*"))) < 2:
    time.sleep(0.05)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2,
                        timeout=timedelta(seconds=4))
exchange = open_exchange(folder / "parts")
if late == "inference" and rank == 1:
    time.sleep(7)
own = {rank: Detections(torch.full((1, 4), float(rank)), torch.ones(1), torch.zeros(1).long())}
if rank:
    exchange.hand_in(own)
else:
    own = exchange.collect(own)
    print(sorted(own), own[1].boxes.tolist())
print(exchange.on_first(lambda: time.sleep(7 * (late == "evaluation")) or "measured"))
dist.barrier()  # the next step of the training: both are here within the timeout
dist.destroy_process_group()
"""


def boxes(value: float) -> Detections:
    return Detections(torch.full((2, 4), value), torch.tensor([0.5, 0.25]), torch.tensor([1, 0]))


def pair(folder: Path) -> tuple[Exchange, Exchange]:
    (folder / "parts" / "one").mkdir(parents=True)
    first, second = (Exchange(folder / "parts" / "one", rank, 2) for rank in (0, 1))
    return first, second


@pytest.mark.slow
@pytest.mark.parametrize("late", ["inference", "evaluation"])
def test_a_wait_longer_than_the_timeout_of_collectives_breaks_nothing(tmp_path: Path, late: str) -> None:
    """The process group gives up after 4 s; one process is 7 s late."""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), str(tmp_path), late],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    (first, errors), (second, more) = (run.communicate(timeout=120) for run in runs)
    assert [run.returncode for run in runs] == [0, 0], errors + more
    assert first.split("\n")[:2] == ["[0, 1] [[1.0, 1.0, 1.0, 1.0]]", "measured"]
    assert second.strip() == "None"
    assert not (tmp_path / "parts").exists()


def test_a_single_process_exchanges_nothing(tmp_path: Path) -> None:
    assert open_exchange(tmp_path / "parts") is None
    assert list(tmp_path.iterdir()) == []


def test_results_arrive_whole(tmp_path: Path) -> None:
    first, second = pair(tmp_path)
    pixels = np.arange(6).reshape(2, 3)
    second.hand_in({"b": boxes(2.0), "c": PanopticDetections(**vars(boxes(3.0)), panoptic=pixels)})
    found = first.collect({7: boxes(1.0)})
    assert list(found) == [7, "b", "c"]
    assert isinstance(found["c"], PanopticDetections)
    assert np.array_equal(found["c"].panoptic, pixels)
    assert all(
        torch.equal(getattr(found["b"], k), getattr(boxes(2.0), k)) for k in ("boxes", "scores", "labels")
    )
    first.close()
    assert not (tmp_path / "parts").exists()


def test_the_others_wait_for_the_metrics(tmp_path: Path) -> None:
    first, second = pair(tmp_path)
    seen: list[str] = []
    thread = threading.Thread(target=lambda: (second.on_first(lambda: "never"), seen.append("second")))
    thread.start()
    assert first.on_first(lambda: time.sleep(0.3) or seen.append("first")) is None
    thread.join(timeout=10)
    assert seen == ["first", "second"]


@pytest.mark.parametrize("failing", [0, 1])
def test_nobody_waits_for_a_process_that_failed(tmp_path: Path, failing: int) -> None:
    pairs = pair(tmp_path)
    waiting = pairs[1 - failing]
    with pytest.raises(ValueError, match="broken"), pairs[failing].telling():
        raise ValueError("broken image")
    with pytest.raises(OtherProcessError, match=f"process {failing}: ValueError: broken image"):
        waiting.collect({}) if failing else waiting.on_first(lambda: None)
