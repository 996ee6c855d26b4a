"""Cancel served trainings of the sample as a user does, at random moments, and look at what is left.

``python -m tests.endurance.cancels --rounds 20`` serves the deployments in a folder of its own and runs
`train` as often, cancelled at its moment; each round goes on from the checkpoint of the round before. Every
fifth cancel is typed, `prefect flow-run cancel ID`; the command needs seconds to start and would miss the
moment, so the others ask the server for the same. Then the training is resumed to its end and its weights
are compared with those of one that nobody cancelled. Exit code 1 when processes were there for 10 s or
longer, a checkpoint was lost or damaged, a run was not shown as Cancelled, or the weights differ.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from detector.checkpoint.files import load_checkpoint, manifest_path
from detector.engine.checkpoints import find_resume_point
from tests.endurance.served import Project, family, kill, serving

LIMIT_S = 10.0  # from the state Cancelling to the end of the last process
MOMENTS = ("start", "training", "evaluation", "saving")


@dataclass
class Round:
    """One cancelled run.

    Attributes:
        moment: what went on.
        typed: whether by `prefect flow-run cancel`.
        gone: seconds from the state Cancelling until the last process had ended.
        shown: seconds from the state Cancelling to Cancelled.
        iteration: of the newest checkpoint afterwards.
        processes: how many there were.
        faults: what was wrong.
    """

    moment: str
    typed: bool = False
    gone: float = 0.0
    shown: float = 0.0
    iteration: int = 0
    processes: int = 0
    faults: list[str] = field(default_factory=list)


def cancel_once(
    project: Project, moment: str, epochs: int, rng: random.Random, *, typed: bool = False
) -> Round:
    """Run `train`, cancel it at the moment, and see what is left."""
    done, before = Round(moment, typed=typed), iteration(project.work_dir)
    run = project.submit("train", epochs=epochs)
    seen = {path.name for path in project.work_dir.glob("*")}
    wait_for(moment, project, run, seen, rng)
    members = family(run)
    done.processes = len(members)
    if typed:
        said = project.run("prefect", "flow-run", "cancel", run)
        wrong = f"{said.stdout}{said.stderr}" if said.returncode else ""
    else:
        wrong = project.cancel(run)
    done.faults += [f"cancel: {wrong}"] if wrong else []
    ended = last_end(run, members)
    state = project.wait(run, "Cancelled", "Crashed", "Failed", "Completed", patience=60)
    times = {name: when for name, _, when in project.states(run)}
    done.gone = max(0.0, ended - times.get("Cancelling", ended))
    done.shown = times.get("Cancelled", ended) - times.get("Cancelling", ended)
    check(done, project.work_dir, before, state)
    return done


def last_end(run: str, members: list[psutil.Process], patience: float = 60.0) -> float:
    """The time at which the last process of a run was seen to be gone, those started meanwhile too."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        members = psutil.wait_procs(members, timeout=0.02)[1] or family(run)
        if not members:
            return time.time()
    kill(members)
    return time.time()


def wait_for(moment: str, project: Project, run: str, seen: set[str], rng: random.Random) -> None:
    """Return when the run is busy with ``moment``.

    Raises:
        RuntimeError: it ended before.
    """

    def lines() -> list[dict[str, Any]]:
        logs = [path for path in project.work_dir.glob("*.log.json") if path.name not in seen]
        texts = [line for path in logs for line in path.read_text().splitlines() if line.endswith("}")]
        return [json.loads(line) for line in texts]

    def trained() -> bool:
        return any(line.get("mode") == "train" for line in lines())

    def saving() -> bool:
        return any(".pth." in path.name and path.name.endswith(".tmp") for path in project.work_dir.glob("*"))

    def saved() -> bool:
        return any(path.name not in seen for path in project.work_dir.glob("epoch_*.pth"))

    ready: Callable[[], bool] = {
        "start": lambda: bool(family(run)), "training": trained, "saving": saving, "evaluation": saved,
    }[moment]  # fmt: skip
    fine = moment in ("saving", "evaluation")
    looked = time.monotonic()
    while not ready():
        time.sleep(0.001 if fine else 0.02)
        if time.monotonic() > looked + 2:
            looked = time.monotonic()
            if (state := project.state(run)) in ("Completed", "Failed", "Crashed", "Cancelled"):
                raise RuntimeError(f"{moment}: the run is {state}: {project.states(run)}")
    time.sleep({"start": 12.0, "training": 4.0, "evaluation": 1.0}.get(moment, 0.0) * rng.random())


def iteration(work_dir: Path) -> int:
    """Of the checkpoint from which a training would go on."""
    found = find_resume_point(work_dir)[0] if work_dir.is_dir() else None
    return 0 if found is None else int(load_checkpoint(found).meta["iter"])


def check(done: Round, work_dir: Path, before: int, state: str) -> None:
    """Add what is wrong with what the cancel left."""
    if done.gone >= LIMIT_S:
        done.faults.append(f"processes were there for {done.gone:.1f} s")
    if state != "Cancelled":
        done.faults.append(f"the run is shown as {state}")
    if not work_dir.is_dir():
        done.faults += [] if done.moment == "start" else [f"{work_dir} is missing"]
        return
    found, damaged = find_resume_point(work_dir)
    done.iteration = iteration(work_dir)
    if damaged:
        done.faults.append(f"damaged: {[path.name for path in damaged]}")
    if done.iteration < before or (done.moment != "start" and done.iteration == before):
        done.faults.append(f"the checkpoint is of iteration {done.iteration}, it was {before}")
    if found is not None and not manifest_path(found).is_file():
        done.faults.append(f"{found} has no manifest")


def finish(project: Project, epochs: int) -> tuple[str, str]:
    """Resume to the end, train another one without a cancel; the digests of both ends' weights.

    Raises:
        RuntimeError: one of them failed.
    """
    run = project.submit("train", epochs=epochs)
    if (state := project.wait(run, "Completed", "Failed", "Crashed", patience=1800)) != "Completed":
        raise RuntimeError(f"the resumed run is {state}: {project.states(run)}")
    return project.weights(0), project.whole(epochs, 0)


def cancel_often(
    project: Project, rounds: int, seed: int, epochs: int | None = None
) -> tuple[list[Round], tuple[str, str]]:
    """All rounds, the moments in turn and in another order each time, then the comparison."""
    rng, moments = random.Random(seed), list[str]()
    while len(moments) < rounds:
        moments += rng.sample(MOMENTS[::-1], len(MOMENTS)) if rounds > 1 else ["training"]
    epochs = epochs or rounds + 2
    with serving(project):
        done = []
        for number, moment in enumerate(moments[:rounds]):
            done.append(cancel_once(project, moment, epochs, rng, typed=number % 5 == 0))
            print(line(len(done), done[-1]), flush=True)
        return done, finish(project, epochs)


def line(number: int, one: Round) -> str:
    """A row of the table."""
    return (
        f"{number:2d}: {one.moment:10s} {'typed' if one.typed else '     '} {one.processes} processes, gone "
        f"after {one.gone:4.1f} s, Cancelled after {one.shown:4.1f} s, iteration {one.iteration}, load "
        f"{os.getloadavg()[0]:.0f} {'; '.join(one.faults)}"
    ).rstrip()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=4250)
    parser.add_argument("--folder", type=Path, help="kept afterwards (default: a temporary one)")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        project = Project(folder / "project", args.port)
        project.make()
        rounds, (resumed, whole) = cancel_often(project, args.rounds, args.seed)
    kinds = collections.Counter(one.moment for one in rounds)
    print("cancels: " + ", ".join(f"{count} {name}" for name, count in kinds.most_common()))
    for name in ("gone", "shown"):
        values = [getattr(one, name) for one in rounds]
        print(f"{name}: median {statistics.median(values):.1f} s, max {max(values):.1f} s")
    print(f"without a fault: {sum(not one.faults for one in rounds)}/{len(rounds)}")
    print(f"weights: resumed {resumed[:16]}, uninterrupted {whole[:16]}, equal: {resumed == whole}")
    return int(any(one.faults for one in rounds) or resumed != whole)


if __name__ == "__main__":
    sys.exit(main())
