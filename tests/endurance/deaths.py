"""Kill what runs a training with SIGKILL, all of it or a part, and see that it goes on and ends the same.

``python -m tests.endurance.deaths`` serves the deployments in a folder of its own and, in turn, kills the
process of a flow run, everything at once as a power failure does (`flows.serve` is then started again), the
training's own process, and a flow that was started directly. Exit code 1 when a served run does not end as
Completed by itself, when one that has no process is shown as running, or when the weights differ from those
of a training that nobody killed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from flows import place
from tests.endurance.cancels import iteration, wait_for
from tests.endurance.served import NAME, Project, family, kill, tree

ENDS = ("Completed", "Failed", "Cancelled")  # Crashed is where the way on begins
EPOCHS = 3


@dataclass
class Death:
    """What came of a kill.

    Attributes:
        what: was killed.
        states: the names of all states the run had.
        seconds: from the kill to the run's end.
        kept: iteration of the checkpoint that was there at the kill.
        faults: what was wrong.
    """

    what: str
    states: list[str] = field(default_factory=list)
    seconds: float = 0.0
    kept: int = 0
    faults: list[str] = field(default_factory=list)


def in_second_epoch(project: Project, seed: int, patience: float = 600) -> Path:
    """Wait until a checkpoint is there and training goes on; gives the work_dir."""
    work_dir, end = project.runs / f"seed{seed}" / "train", time.monotonic() + patience
    while not (work_dir / "epoch_1.pth").is_file() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(3.0)
    return work_dir


def die(project: Project, what: str, seed: int, strike: Callable[[str], None], epochs: int = EPOCHS) -> Death:
    """Submit a training, strike while it trains and has a checkpoint to go on from, wait for its end."""
    death, work_dir = Death(what), project.runs / f"seed{seed}" / "train"
    seen = {path.name for path in work_dir.glob("*")}
    run = project.submit("train", epochs=epochs, seed=seed)
    if seen and iteration(work_dir):
        wait_for("training", project, run, seen, random.Random(seed))
    else:
        in_second_epoch(project, seed)
    started = time.monotonic()
    strike(run)
    death.kept = iteration(work_dir)
    state = project.wait(run, *ENDS, patience=900)
    death.seconds = time.monotonic() - started
    death.states = [name for name, _, _ in project.states(run)]
    if state != "Completed":
        death.faults.append(f"the run is shown as {state}: {project.states(run)[-3:]}")
    if (found := project.weights(seed)) != (wanted := project.whole(epochs, seed)):
        death.faults.append(f"weights {found[:16]}, uninterrupted {wanted[:16]}")
    return death


def flow_process(run: str) -> psutil.Process:
    """The process of a flow run: the one above all the others of its family."""
    members = family(run)
    pids = {process.pid for process in members}
    return next(process for process in members if process.ppid() not in pids)


def training_process(run: str) -> psutil.Process:
    """The process that trains."""
    return next(one for one in family(run) if one.cmdline()[1:5] == ["-u", "-m", "detector", "train"])


def direct(project: Project, seed: int) -> Death:
    """Kill a flow that was started directly; the next look of `flows.serve` must set it right."""
    death = Death("a direct flow")
    words = [sys.executable, "-m", "flows.train", "--config", f"{NAME}.py", "--seed", str(seed)]
    words += ["--epochs", str(EPOCHS), "--device", "cpu"]
    env = {**project.env, "PREFECT_API_URL": project.url}
    with (project.folder / "direct.txt").open("ab") as output:
        process = subprocess.Popen(words, cwd=project.folder, env=env, stdout=output, stderr=output)
    work_dir = in_second_epoch(project, seed)
    _, rows = place.post(
        f"{project.url}/flow_runs/filter", {"flow_runs": {"state": {"name": {"any_": ["Running"]}}}}
    )
    started = time.monotonic()
    kill(tree(process.pid))
    process.wait()
    death.kept = iteration(work_dir)
    state = project.wait(rows[0]["id"], "Crashed", patience=60)
    death.seconds = time.monotonic() - started
    death.states = [name for name, _, _ in project.states(rows[0]["id"])]
    if state != "Crashed" or len(rows) != 1:
        death.faults.append(f"{len(rows)} runs, shown as {state}")
    again = subprocess.run(words, cwd=project.folder, env=env, capture_output=True, text=True, check=False)
    if again.returncode or "resumed" not in again.stdout + again.stderr:
        death.faults.append(again.stdout[-2000:] + again.stderr[-2000:])
    if project.weights(seed) != project.whole(EPOCHS, seed):
        death.faults.append("other weights")
    return death


class Served:
    """A project whose `flows.serve` can lose its power."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.process = project.serve()

    def power_failure(self, run: str) -> None:
        """Kill everything at once and start `flows.serve` again."""
        kill([*tree(self.process.pid), *family(run)])
        self.process.wait()
        self.process = self.project.serve()

    def end(self) -> None:
        """Stop serving."""
        self.project.run("flows.serve", "--stop")
        kill(tree(self.process.pid))


def all_deaths(project: Project, wanted: str = "") -> list[Death]:
    """The kills whose name begins with ``wanted``, one after the other."""
    served = Served(project)
    kills: dict[str, Callable[[str], Death]] = {
        "the flow's process": lambda name: die(project, name, 1, lambda run: flow_process(run).kill()),
        "everything": lambda name: die(project, name, 2, served.power_failure),
        "the training": lambda name: die(project, name, 3, lambda run: training_process(run).kill()),
        "a direct flow": lambda name: direct(project, 4),
    }
    done = []
    try:
        for name, strike in kills.items():
            if name.startswith(wanted):
                done.append(strike(name))
                print(line(done[-1]), flush=True)
    finally:
        served.end()
    return done


def line(one: Death) -> str:
    """A row of the table."""
    shown = " > ".join(one.states)
    return (
        f"{one.what}: checkpoint of iteration {one.kept}, end after {one.seconds:.0f} s, states {shown} "
        f"{'; '.join(one.faults) or 'no fault, same weights'}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=4251)
    parser.add_argument("--folder", type=Path, help="kept afterwards (default: a temporary one)")
    parser.add_argument("--only", default="", help="the kills whose name begins so")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        project = Project(folder / "project", args.port)
        project.make()
        deaths = all_deaths(project, args.only)
    print(f"without a fault: {sum(not one.faults for one in deaths)}/{len(deaths)}")
    return int(any(one.faults for one in deaths))


if __name__ == "__main__":
    sys.exit(main())
