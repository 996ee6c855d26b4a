"""Kill a process while it writes checkpoints, or fill its disk; afterwards ``latest.pth`` must load.

``python -m tests.endurance.writes --kills 200`` kills; ``--full-disk`` mounts a small tmpfs (root) and lets
the writing fail at ten offsets. Exit code 1 when a checkpoint is lost or cannot be loaded.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from detector.checkpoint.files import load_checkpoint, save_checkpoint, verify_checkpoint
from detector.engine import checkpoints
from detector.engine.checkpoints import LATEST, RunCheckpoints, find_resume_point
from tests.endurance.full_disk import OFFSETS, fill_disk, holds, messages, payload, train_through_it
from tests.endurance.tiny_run import Marks, ended, fork


def write_on(work_dir: Path, marks: Marks, first: int, mib: float) -> int:
    """Save checkpoint after checkpoint, every third as the best one too; ends only by a signal.

    ``marks`` counts the finished ones as 'step' and the finished best ones as 'data'.
    """
    torch.set_num_threads(1)

    def marked(path: Any, content: Any) -> str:
        with marks.during("best" if Path(path).name.startswith("best_") else "save"):
            return save_checkpoint(path, content)

    run = RunCheckpoints(work_dir, max_keep=2)
    run.messages.update(messages(work_dir))
    with mock.patch.object(checkpoints, "save_checkpoint", marked):
        for number in range(first, first + 10**6):
            content = payload(number, mib)
            run.save(f"iter_{number}.pth", content)
            marks.enter("step")
            if number % 3 == 0:
                run.save_best("mAP", float(number), f"iter_{number}.pth", content)
                marks.enter("data")
    return 0


def stage(work_dir: Path) -> str:
    """How far the write that was cut off had come."""
    names = {path.name for path in work_dir.iterdir()}
    if any(name.startswith(".") and ".pth." in name and ".sha256." not in name for name in names):
        return "writing the file"
    if any(name.endswith(".pth") and name != LATEST and f"{name}.sha256" not in names for name in names):
        return "file stands, its digest not yet"
    newest = max(find_regular(names), default=None)
    if newest is not None and (work_dir / LATEST).resolve().name != newest[1]:
        return "file stands, latest not yet"
    return "around a write"


def find_regular(names: set[str]) -> list[tuple[int, str]]:
    """(number, name) of the regular checkpoints."""
    return [(int(name[5:-4]), name) for name in names if name.startswith("iter_") and name.endswith(".pth")]


def kill_writers(
    work_dir: Path, *, kills: int, seed: int, mib: float
) -> tuple[collections.Counter[str], list[str]]:
    """Kill one writer after the other in one work_dir; (kills per stage, faults)."""
    rng, stages, faults = random.Random(seed), collections.Counter[str](), []
    first = 1
    typical_s = _typical_seconds(work_dir.with_name("typical"), mib)
    for number in range(kills):
        marks, linked = Marks(), latest_number(work_dir)
        pid = fork(
            lambda marks=marks, first=first: write_on(work_dir, marks, first, mib), work_dir / "out.txt"
        )  # type: ignore[misc]
        phase, nth = ("best", 1) if rng.random() < 0.25 else ("save", rng.randint(1, 2))
        while marks.count(phase) < nth:
            time.sleep(0.0005)
        if phase == "save" and rng.random() < 0.3:  # the short time of renaming, digest, link and deleting
            written = work_dir / f"iter_{first - 1 + nth}.pth"
            while not written.exists():
                time.sleep(0.0001)
            time.sleep(rng.random() * 0.006)
        else:
            time.sleep(rng.random() * 1.2 * typical_s)
        os.killpg(pid, signal.SIGKILL)
        while ended(pid) is None:
            time.sleep(0.001)
        stages[stage(work_dir)] += 1
        finished = first - 1 + marks.count("step")
        linked = finished if marks.count("step") else linked
        wrong = check(work_dir, finished, linked, best=marks.count("data") > 0)
        faults += [f"kill {number}: {fault}" for fault in wrong]
        found, _ = find_resume_point(work_dir)
        first = 1 + (0 if found is None else int(load_checkpoint(found).meta["iter"]))
    return stages, faults


def _typical_seconds(work_dir: Path, mib: float) -> float:
    """How long one save takes here."""
    run = RunCheckpoints(work_dir, max_keep=1)
    started = time.monotonic()
    for number in range(3):
        run.save(f"iter_{number}.pth", payload(number, mib))
    return (time.monotonic() - started) / 3


def latest_number(work_dir: Path) -> int:
    """The iteration of ``latest.pth``, 0 without one, -1 when it cannot be loaded."""
    latest = work_dir / LATEST
    if not latest.exists():
        return 0
    return int(load_checkpoint(latest).meta["iter"]) if holds(latest) else -1


def check(work_dir: Path, finished: int, linked: int, *, best: bool) -> list[str]:
    """What is wrong in a work_dir after a kill.

    Args:
        work_dir: where the writers wrote.
        finished: number of the last checkpoint that is known to stand.
        linked: number of the last one that ``latest.pth`` is known to have pointed at: one less where the
            writer before was killed between writing and linking.
        best: whether a best one is known to stand.
    """
    faults = []
    found, damaged = find_resume_point(work_dir)
    number = 0 if found is None else int(load_checkpoint(found).meta["iter"])
    if not finished <= number <= finished + 1:
        faults.append(f"resumes after {number}, {finished} were finished")
    if damaged:
        faults.append(f"damaged: {[path.name for path in damaged]}")
    if found is not None and not holds(found):
        faults.append(f"{found.name} is not whole")
    latest, points_at = work_dir / LATEST, latest_number(work_dir)
    if points_at < 0:
        faults.append(f"{LATEST} does not load")
    elif points_at < linked:
        faults.append(f"{LATEST} is of {points_at}, it was of {linked}")
    if latest.exists() and not verify_checkpoint(latest.resolve()):
        faults.append(f"{LATEST} points at a file that is not verified")
    wholes = [path for path in work_dir.glob("best_*.pth") if holds(path)]
    if best and not wholes:
        faults.append("no best checkpoint is whole")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mib", type=float, default=30.0, help="size of a checkpoint")
    parser.add_argument("--full-disk", action="store_true", help="fill a tmpfs instead of killing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        if args.full_disk:
            faults = fill_disk(Path(temporary) / "disk")
            print(f"{OFFSETS} offsets on a full disk: {len(faults)} faults")
            faults += train_through_it(Path(temporary))
        else:
            work_dir = Path(temporary) / "run"
            work_dir.mkdir()
            stages, faults = kill_writers(work_dir, kills=args.kills, seed=args.seed, mib=args.mib)
            print(f"kills: {stages.total()}: " + ", ".join(f"{n} {name}" for name, n in stages.most_common()))
            print(f"unloadable latest, lost or damaged checkpoints: {len(faults)}")
    print("\n".join(faults))
    print(f"took {time.monotonic() - started:.0f} s")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
