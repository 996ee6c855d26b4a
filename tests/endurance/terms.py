"""Send SIGTERM to a training's whole process group, as a scheduler does, and wait for all of it to be gone.

``python -m tests.endurance.terms --rounds 20`` starts ``python -m detector train`` with four loader workers
as often, each time going on from the checkpoint of the time before, and prints how long the stops took. Exit
code 1 when one took 25 s or longer, left a process, or left no verified checkpoint of its last whole step.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detector.checkpoint.files import load_checkpoint, manifest_path
from detector.engine.checkpoints import find_resume_point
from tests.endurance.tiny_run import group_members, write_config

LIMIT_S = 25.0
MOMENTS = ("start-up", "workers", "training", "evaluation", "saving")


@dataclass
class Stop:
    """One round: what was going on, how long the stop took, the exit code and what was wrong."""

    moment: str
    seconds: float = 0.0
    code: int | None = None
    iteration: int = 0
    faults: list[str] = field(default_factory=list)


def stop_once(
    config: Path, work_dir: Path, moment: str, rng: random.Random, *, max_epochs: int = 400
) -> Stop:
    """Start or continue the training, send the signal at the moment, and see what is left."""
    stop = Stop(moment)
    work_dir.mkdir(parents=True, exist_ok=True)
    before = _iteration(work_dir)
    command = [
        sys.executable,
        "-m",
        "detector",
        "train",
        str(config),
        "--work-dir",
        str(work_dir),
        "--seed",
        "3",
    ]
    command += ["--device", "cpu", "--auto-resume", "--cfg-options", f"runner.max_epochs={max_epochs}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (work_dir / "output.txt").open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
        try:
            _wait_for(moment, process, work_dir, rng)
            started = time.monotonic()
            os.killpg(process.pid, signal.SIGTERM)
            while process.poll() is None or group_members(process.pid):
                if time.monotonic() > started + LIMIT_S + 20:
                    stop.faults.append(f"still running: {group_members(process.pid)}")
                    break
                time.sleep(0.005)
            stop.seconds = time.monotonic() - started
        finally:
            if group_members(process.pid):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    stop.code = process.returncode
    _check(stop, work_dir, before)
    return stop


def _wait_for(moment: str, process: subprocess.Popen[Any], work_dir: Path, rng: random.Random) -> None:
    """Return when the training is busy with ``moment``.

    Raises:
        RuntimeError: it ended before.
    """
    seen = {path.name for path in work_dir.iterdir()}

    def new_lines() -> list[dict[str, Any]]:
        logs = [path for path in work_dir.glob("*.log.json") if path.name not in seen]
        return [
            json.loads(line) for path in logs for line in path.read_text().splitlines() if line.endswith("}")
        ]

    def writing() -> bool:
        return any(path.name.endswith(".tmp") and ".pth." in path.name for path in work_dir.iterdir())

    def trained() -> bool:
        return any(line.get("mode") == "train" for line in new_lines())

    ready = {
        "start-up": lambda: bool(new_lines()),
        "workers": lambda: len(group_members(process.pid)) > 2,
        "training": trained,
        "evaluation": lambda: trained() and (writing() or moment != "evaluation"),
        "saving": lambda: trained() and writing(),
    }[moment]
    while not ready():
        if process.poll() is not None:
            raise RuntimeError(
                f"ended with {process.returncode}: {(work_dir / 'output.txt').read_text()[-2000:]}"
            )
        time.sleep(0.0005 if moment in ("saving", "evaluation") else 0.005)
    # an evaluation follows a checkpoint of the same epoch; a training is met anywhere in two epochs
    time.sleep(
        {"training": 3.0, "evaluation": 0.5, "workers": 0.3, "start-up": 0.3}.get(moment, 0.0) * rng.random()
    )


def _iteration(work_dir: Path) -> int:
    found, _ = find_resume_point(work_dir)
    return 0 if found is None else int(load_checkpoint(found).meta["iter"])


def _check(stop: Stop, work_dir: Path, before: int) -> None:
    """Add what is wrong with what the stop left."""
    said = (work_dir / "output.txt").read_text()
    found, damaged = find_resume_point(work_dir)
    stop.iteration = _iteration(work_dir)
    if stop.seconds >= LIMIT_S:
        stop.faults.append(f"took {stop.seconds:.1f} s")
    if damaged:
        stop.faults.append(f"damaged: {[path.name for path in damaged]}")
    if stop.code == -signal.SIGTERM and stop.moment in ("start-up", "workers") and stop.iteration == before:
        return  # nothing was trained, nothing is to be saved
    if stop.code != 128 + signal.SIGTERM:
        stop.faults.append(f"exit code {stop.code}: {said[-1500:]}")
    elif found is None or not manifest_path(found).is_file() or f"{found}" not in said:
        stop.faults.append(f"the checkpoint is {found}; it said {said[-500:]}")
    elif stop.iteration <= before and stop.moment not in ("start-up", "workers", "evaluation"):
        stop.faults.append(f"the checkpoint is of iteration {stop.iteration}, it began with {before}")


def stop_often(folder: Path, *, rounds: int, seed: int, workers: int = 4) -> list[Stop]:
    """All rounds, one after the other in one work_dir, taking the moments in turn."""
    config, rng = write_config(folder, "epoch", workers=workers), random.Random(seed)
    moments = [rng.choice(MOMENTS) if n >= len(MOMENTS) else MOMENTS[-1 - n] for n in range(rounds)]
    return [stop_once(config, folder / "stopped", moment, rng) for moment in moments]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=4)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        stops = stop_often(Path(temporary), rounds=args.rounds, seed=args.seed, workers=args.workers)
    for number, stop in enumerate(stops):
        print(
            f"{number}: {stop.moment}, {stop.seconds:.2f} s, code {stop.code}, iteration {stop.iteration}",
            *stop.faults,
        )
    saved = [stop for stop in stops if stop.code == 128 + signal.SIGTERM]
    seconds = [stop.seconds for stop in stops]
    kinds = ", ".join(f"{n} {name}" for name, n in collections.Counter(s.moment for s in stops).most_common())
    print(f"signals: {len(stops)} ({kinds}); {len(stops) - len(saved)} before there was anything to save")
    print(f"seconds until all are gone: median {statistics.median(seconds):.2f}, max {max(seconds):.2f}")
    print(f"without a fault: {sum(not stop.faults for stop in stops)}/{len(stops)}")
    return int(any(stop.faults for stop in stops))


if __name__ == "__main__":
    sys.exit(main())
