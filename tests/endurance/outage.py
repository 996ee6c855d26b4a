"""Trainings while MLflow is out: what is lost, what comes twice, and what it costs the training.

    python -m tests.endurance.outage [--scenario down --scenario slow …] [--epochs 40] [--rounds 2]

Each scenario is `python -m tasks train` of a small config against `mlflow server`, something happens to the
server, and afterwards `python -m tasks tracking sync` sends what is left. Then every number of the training
log is looked for in the server's database. Before the scenarios of a round the same training runs with the
tracking off, whose step time is the comparison. Prints a Markdown table; the exit code is 1 if anything was
lost or came twice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tasks import spool
from tasks.tracked_run import metric_name
from tests.endurance.tiny_run import write_config
from tests.endurance.tracking_server import Door, Server

ROOT = Path(__file__).parents[2]
BATCHES = 6  # steps of an epoch of the small config
FULL_MIB = 12  # size of the small disk
SCHEDULE = """
runner = dict(_delete_=True, type='EpochBasedRunner', max_epochs={epochs})
checkpoint_config = dict(_delete_=True, interval=5, max_keep_ckpts=2)
evaluation = dict(_delete_=True, interval=20, metric=['bbox'])
log_config = dict(interval=1)
"""


@dataclass
class Place:
    """A folder to train in, a server with a store, and the door before it."""

    folder: Path
    config: Path
    server: Server
    door: Door
    direct: bool = True
    started: threading.Event = field(default_factory=threading.Event)
    process: subprocess.Popen[bytes] | None = None

    @property
    def work_dir(self) -> Path:
        return self.folder / "runs" / self.config.stem / "seed0" / "train"

    def command(self, *words: str, tracking: bool = True) -> subprocess.Popen[bytes]:
        """Start `python -m tasks …` in the folder, in a process group of its own."""
        uri = self.server.uri if self.direct else self.door.uri
        env = {**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        env["DETECTOR_TRACKING"] = "on" if tracking else "off"
        with (self.folder / "output.txt").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "tasks", *words], cwd=self.folder, env=env, stdout=output,
                stderr=output, start_new_session=True,
            )  # fmt: skip

    def train(self, *, tracking: bool = True) -> subprocess.Popen[bytes]:
        """Start the training."""
        (self.folder / "params.yaml").write_text(f"config: {self.config}\n")
        self.process = self.command("train", "--device", "cpu", tracking=tracking)
        return self.process

    def lines(self) -> list[dict[str, float]]:
        """The training lines of the log so far."""
        found = []
        for path in sorted(self.work_dir.glob(spool.PATTERN)):
            for line in path.read_text().splitlines():
                with contextlib.suppress(ValueError):
                    data = json.loads(line)
                    if data.get("mode") == "train":
                        found.append(data)
        return found

    def wait_for_steps(self, count: int, limit_s: float = 300) -> None:
        """Wait until the log has so many lines."""
        end = time.monotonic() + limit_s
        while len(self.lines()) < count and time.monotonic() < end:
            time.sleep(0.3)

    def wait_for_numbers(self, limit_s: float = 300) -> None:
        """Wait until the server has the first numbers."""
        end = time.monotonic() + limit_s
        while not self.server.points() and time.monotonic() < end:
            time.sleep(0.3)


def nothing(place: Place, epochs: int) -> None:
    """The server is there all the time."""


def down(place: Place, epochs: int) -> None:
    """The server comes up after the training."""


def dies(place: Place, epochs: int) -> None:
    """The server is killed when it has the first numbers, and comes back while the training still runs."""
    place.wait_for_numbers()
    place.server.kill()
    place.wait_for_steps(len(place.lines()) + epochs)
    place.server.start()


def slow(place: Place, epochs: int) -> None:
    """Every call takes 10 s."""


def broken(place: Place, epochs: int) -> None:
    """Every call is answered by 500."""


def full(place: Place, epochs: int) -> None:
    """The store's disk is full from the first numbers on."""
    place.wait_for_numbers()
    filler = place.server.store / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"0" * 4096)


def crash(place: Place, epochs: int) -> None:
    """Without a server all processes of the training are killed half way; it is started again."""
    place.wait_for_steps(BATCHES * epochs // 2 + 2)
    assert place.process is not None
    os.killpg(place.process.pid, signal.SIGKILL)
    place.process.wait()
    time.sleep(3)  # the training itself, in a group of its own, ends by its parent's death
    place.train()


@dataclass(frozen=True)
class Scenario:
    """What happens, whether the server is there from the start, and how the door is."""

    happens: Callable[[Place, int], None]
    up: bool
    door: str = ""
    small_disk: bool = False


SCENARIOS = {
    "no outage": Scenario(nothing, up=True),
    "down at start": Scenario(down, up=False),
    "dies and comes back": Scenario(dies, up=True),
    "slow, 10 s a call": Scenario(slow, up=True, door="slow"),
    "answers 500": Scenario(broken, up=True, door="broken"),
    "disk of the store full": Scenario(full, up=True, small_disk=True),
    "killed while offline": Scenario(crash, up=False),
}


@dataclass(frozen=True)
class Outcome:
    """What became of one run; times in seconds."""

    steps: int
    steps_lost: int
    points: int
    lost: int
    doubled: int
    left_at_end: int
    step_s: float
    base_s: float
    end_s: float
    base_end_s: float

    @property
    def whole(self) -> bool:
        return not (self.steps_lost or self.lost or self.doubled)


@contextlib.contextmanager
def small_disk(folder: Path, wanted: bool) -> Iterator[None]:
    """A file system of a few MiB at ``folder``, which needs root; nothing if it is not wanted."""
    if not wanted:
        yield
        return
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={FULL_MIB}m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def run(name: str, folder: Path, epochs: int, port: int, alone: tuple[float, float]) -> Outcome:
    """One scenario, from an empty folder."""
    scenario = SCENARIOS[name]
    folder.mkdir()
    config = write_config(folder, "epoch", workers=1, more=SCHEDULE.format(epochs=epochs))
    door = Door(port, port + 1)
    server = Server(folder / "store", port + 1)
    place = Place(folder, config, server, door, direct=not scenario.door)
    try:
        with small_disk(server.store, scenario.small_disk):
            if scenario.up:
                server.start()
            door.mode = scenario.door or "open"
            place.train()
            scenario.happens(place, epochs)
            ended = _end(place)
            before = points_of(place)
            left = len(expected(place) - Counter(before))
            door.mode = "open"
            (server.store / "filler").unlink(missing_ok=True)
            server.kill()  # whatever a full disk has left of it
            server.start()
            place.command("tracking", "sync").wait(600)
            return _outcome(place, epochs, left, alone, ended)
    finally:
        server.kill()
        door.close()


def _end(place: Place) -> float:
    """Wait for the training; seconds from its last log line to its end."""
    assert place.process is not None
    code = place.process.wait(900)
    if code:
        raise RuntimeError(f"{place.folder}: the training ended with {code}; see output.txt there")
    logs = [path.stat().st_mtime for path in place.work_dir.glob(spool.PATTERN)]
    return time.time() - max(logs)


def points_of(place: Place) -> list[tuple[str, int, int, float]]:
    """What the store has: (key, step, timestamp, value)."""
    return [(key, step, moment, value) for _, key, value, moment, step in place.server.points()]


def expected(place: Place) -> Counter[tuple[str, int, int, float]]:
    """What the store must have: every number of the log and of the machine's measurements, once."""
    rows = spool.read(place.work_dir, spool.Position())
    found = [point for row in rows for point in spool.points(row)]
    found += spool.read_system(place.work_dir, 0)[0]
    return Counter((metric_name(one.key), one.step, one.timestamp, one.value) for one in found)


def _outcome(place: Place, epochs: int, left: int, alone: tuple[float, float], end_s: float) -> Outcome:
    wanted, found = expected(place), points_of(place)
    steps = {row.step for row in spool.read(place.work_dir, spool.Position()) if row.mode == "train"}
    runs = {run for run, *_ in place.server.points()}
    by_step = Counter((key, step) for key, step, *_ in found)
    doubled = sum(count - 1 for count in by_step.values()) + (len(runs) - 1) * len(wanted) * (len(runs) > 1)
    return Outcome(
        steps=len(steps),
        steps_lost=len(set(range(1, BATCHES * epochs + 1)) - steps),
        points=len(wanted),
        lost=sum((wanted - Counter(found)).values()),
        doubled=doubled,
        left_at_end=left,
        step_s=step_time(place),
        base_s=alone[0],
        end_s=end_s,
        base_end_s=alone[1],
    )


def step_time(place: Place) -> float:
    """Median seconds of a step without its wait for data; the first epoch, which warms up, does not count."""
    times = [line["time"] - line["data_time"] for line in place.lines()[BATCHES:]]
    return statistics.median(times)


def base(folder: Path, epochs: int, port: int) -> tuple[float, float]:
    """The step time with the tracking off, and the time from the last log line to the end."""
    folder.mkdir()
    config = write_config(folder, "epoch", workers=1, more=SCHEDULE.format(epochs=epochs))
    door = Door(port, port + 1)
    place = Place(folder, config, Server(folder / "store", port + 1), door)
    try:
        place.train(tracking=False)
        ended = _end(place)
        return step_time(place), ended
    finally:
        door.close()


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """The outcomes as a Markdown table; several rounds of a scenario in one line."""
    lines = [
        "| scenario | rounds | steps | steps lost | metric points | unsent at the end | lost after sync "
        "| doubled | step time vs no tracker, median (range) | end of the step (without) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in outcomes.items():
        ratios = [100 * (one.step_s / one.base_s - 1) for one in found]
        spread = f"{statistics.median(ratios):+.1f} % ({min(ratios):+.1f} … {max(ratios):+.1f})"
        total = [sum(getattr(one, key) for one in found) for key in ("steps_lost", "lost", "doubled")]
        left = max(one.left_at_end for one in found)
        lines.append(
            f"| {name} | {len(found)} | {found[0].steps} | {total[0]} | {found[0].points} | {left} "
            f"| {total[1]} | {total[2]} | {spread} "
            f"| {max(one.end_s for one in found):.0f} s ({max(one.base_end_s for one in found):.0f}) |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run the scenarios and print the table."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--scenario", action="append", choices=list(SCENARIOS), help="may be given again")
    made.add_argument("--epochs", type=int, default=40, help=f"of {BATCHES} steps")
    made.add_argument("--rounds", type=int, default=1, help="of every scenario, and of the run without")
    made.add_argument("--port", type=int, default=5210, help="first of two ports")
    made.add_argument("--folder", type=Path, help="for what is made; it stays (default: a temporary one)")
    arguments = made.parse_args()
    outcomes: dict[str, list[Outcome]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        top = arguments.folder or Path(temporary)
        top.mkdir(parents=True, exist_ok=True)
        for number in range(arguments.rounds):
            alone = base(top / f"{number}_off", arguments.epochs, arguments.port)
            for name in arguments.scenario or SCENARIOS:
                label = f"{number}_{name.split(',')[0].replace(' ', '_')}"
                one = run(name, top / label, arguments.epochs, arguments.port, alone)
                outcomes.setdefault(name, []).append(one)
                print(name, one, flush=True)
    print(table(outcomes))
    return 0 if all(one.whole for found in outcomes.values() for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
