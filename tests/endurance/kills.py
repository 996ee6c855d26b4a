"""Kill a small training at random moments, resume it, and compare with one that was never killed.

``python -m tests.endurance.kills --points 100`` prints, per class of moment, how many kills there were, and
every point whose weights, optimizer, best checkpoint or sequence of samples differ. Exit code 1 when there is
one. Every point begins with a SIGKILL; a quarter go on with a second one, or with a SIGTERM.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.endurance.records import final_state, history, journals
from tests.endurance.tiny_run import (
    Marks,
    ended,
    group_members,
    start_training,
    warm_up,
    write_config,
)

TARGETS = ("data", "step", "save", "best", "evaluate")
#: a training that does not end in this time hangs
LIMIT_S = 300.0


@dataclass(frozen=True)
class Moment:
    """When to kill: at a share of the whole run's time, or in the ``nth`` of a phase, a share of it in."""

    phase: str | None
    share: float
    nth: int = 1


@dataclass
class Reference:
    """The training that was not killed."""

    config: Path
    options: Sequence[str]
    marks: Marks
    seconds: float
    state: dict[str, Any]
    steps: list[tuple[int, str]]
    epoch: int


@dataclass
class Outcome:
    """What became of one point.

    Attributes:
        kills: the phase that each kill hit, 'mid-epoch' added inside an epoch; 'stopped' before it for a
            SIGTERM.
        faults: what differs from the reference; empty when all is well.
        redone: steps that were done again after a kill.
    """

    number: int
    kills: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    redone: int = 0


def reference_run(folder: Path, config: Path, options: Sequence[str]) -> Reference:
    """Train without a kill."""
    from detector.checkpoint.files import load_checkpoint

    marks, work_dir, started = Marks(), folder / f"whole_{config.stem}", time.monotonic()
    pid = start_training(config, work_dir, marks, options=options)
    while (code := ended(pid)) is None:
        time.sleep(0.01)
    seconds = time.monotonic() - started
    if code:
        raise SystemExit(
            f"the reference run failed ({code}):\n{(work_dir / 'output.txt').read_text()[-3000:]}"
        )
    length = load_checkpoint(work_dir / "latest.pth").raw["resume"]["epoch_length"]
    steps = history(journals(work_dir))
    return Reference(config, options, marks, seconds, final_state(work_dir), steps, length)


def draw_moment(rng: random.Random, reference: Reference) -> Moment:
    """Half the time any moment of the run, else inside a phase that may be short."""
    if rng.random() < 0.5:
        return Moment(None, rng.random())
    phase = rng.choice([name for name in TARGETS if reference.marks.count(name)])
    return Moment(phase, rng.random(), rng.randint(1, reference.marks.count(phase)))


def point(
    number: int, folder: Path, reference: Reference, rng: random.Random
) -> Generator[None, None, Outcome]:
    """One point, in steps between which the caller may do other things."""
    outcome, work_dir = Outcome(number), folder / f"point_{number}"
    wanted = 1 if rng.random() < 0.75 else 2
    for attempt in range(50):
        marks = Marks()
        pid = start_training(reference.config, work_dir, marks, options=reference.options, attempt=attempt)
        moment = draw_moment(rng, reference) if len(outcome.kills) < wanted else None
        sent: list[str] = []
        code = yield from _until_ended(
            pid, marks, moment, reference, partial(send, pid, outcome, rng, marks, sent)
        )
        yield from _group_gone(pid, outcome)
        if sent and code in (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM):
            phase = sent[0] or marks.phase  # after a SIGKILL the mark cannot move any more
            outcome.kills.append(
                ("stopped " if sent[0] else "") + phase + _within(phase, work_dir, reference.epoch)
            )
        elif code:
            outcome.faults.append(f"ended with {code}: {(work_dir / 'output.txt').read_text()[-800:]}")
            break
        elif moment is None:
            break
        elif not outcome.kills:  # it was over before the moment came: from the beginning
            shutil.rmtree(work_dir)
    if not outcome.faults:
        compare(outcome, work_dir, reference)
    if not outcome.faults:
        shutil.rmtree(work_dir)
    return outcome


def send(pid: int, outcome: Outcome, rng: random.Random, marks: Marks, sent: list[str]) -> None:
    """Kill, the first time; later perhaps ask to stop. ``sent`` gets the phase of a stop, '' for a kill."""
    if outcome.kills and rng.random() < 0.5:
        sent.append(marks.phase)
        os.killpg(pid, signal.SIGTERM)
    else:
        sent.append("")
        # a crash of the machine takes all processes, one of the program only the main one
        (os.killpg if rng.random() < 0.7 else os.kill)(pid, signal.SIGKILL)


def _until_ended(
    pid: int, marks: Marks, moment: Moment | None, reference: Reference, at_moment: Callable[[], None]
) -> Generator[None, None, int]:
    """Wait for the moment to call ``at_moment``, then for the end; the exit code."""
    started, due = time.monotonic(), float("inf")
    if moment is not None and moment.phase is None:
        due = started + moment.share * reference.seconds
    waiting = moment is not None and moment.phase is not None
    while (code := ended(pid)) is None:
        now = time.monotonic()
        if waiting and moment is not None and marks.count(str(moment.phase)) >= moment.nth:
            due, waiting = now + moment.share * reference.marks.seconds(str(moment.phase)), False
        if now >= due:
            at_moment()
            due = float("inf")
        if now > started + LIMIT_S:
            os.killpg(pid, signal.SIGKILL)
            return 124
        yield
    return code


def _within(phase: str, work_dir: Path, epoch: int) -> str:
    """Whether a kill hit the inside of an epoch."""
    if phase not in ("data", "step"):
        return ""
    steps = journals(work_dir)[-1]
    return " mid-epoch" if steps and (max(steps) + 1) % epoch else ""


def _group_gone(group: int, outcome: Outcome) -> Generator[None, None, None]:
    """Wait until the killed process's workers are gone too."""
    deadline = time.monotonic() + 10
    while members := group_members(group):
        if time.monotonic() > deadline:
            outcome.faults.append(f"processes {members} outlive their training")
            os.killpg(group, signal.SIGKILL)
            return
        yield


def compare(outcome: Outcome, work_dir: Path, reference: Reference) -> None:
    """Add what differs from the reference to the outcome."""
    state, starts = final_state(work_dir), journals(work_dir)
    outcome.faults += [
        f"{key}: {state[key]}, expected {reference.state[key]}"
        for key in state
        if state[key] != reference.state[key]
    ]
    steps, expected = history(starts), dict(reference.steps)
    if steps != reference.steps:
        outcome.faults.append(f"samples repeated or skipped: {steps}, expected {reference.steps}")
    done = [step for start in starts for step in start.items()]
    other = [step for step in done if expected.get(step[0]) != step[1]]
    if other:
        outcome.faults.append(f"done with other samples: {other}")
    outcome.redone = len(done) - len(steps)
    left = [path.name for path in work_dir.glob(".*")]
    if left:
        outcome.faults.append(f"left behind: {left}")


def run_points(
    numbers: Iterable[int], jobs: int, folder: Path, references: Sequence[Reference], seed: int
) -> list[Outcome]:
    """All points, ``jobs`` trainings at a time, taking the references in turn."""
    waiting = collections.deque(numbers)
    active: list[Generator[None, None, Outcome]] = []
    outcomes: list[Outcome] = []
    while waiting or active:
        while waiting and len(active) < jobs:
            number = waiting.popleft()
            chosen = references[number % len(references)]
            active.append(point(number, folder, chosen, random.Random(f"{seed} {number}")))
        for work in list(active):
            try:
                next(work)
            except StopIteration as stop:
                active.remove(work)
                outcomes.append(stop.value)
                if stop.value.faults:
                    print(f"point {stop.value.number} {stop.value.kills}: {stop.value.faults}", flush=True)
        time.sleep(0.0005)
    return outcomes


def summary(outcomes: Sequence[Outcome], references: Sequence[Reference]) -> str:
    """The figures of a run of the script."""
    classes = collections.Counter(kill for outcome in outcomes for kill in outcome.kills)
    good = sum(not outcome.faults for outcome in outcomes)
    lengths = ", ".join(f"{r.config.stem} {len(r.steps)} steps {r.seconds:.1f} s" for r in references)
    lines = [f"uninterrupted: {lengths}"]
    lines += [
        f"kills: {sum(classes.values())}: " + ", ".join(f"{n} {name}" for name, n in classes.most_common())
    ]
    lines += [f"steps done again: {sum(outcome.redone for outcome in outcomes)}, all with the same samples"]
    lines += [f"equal to the uninterrupted run: {good}/{len(outcomes)}"]
    return "\n".join(lines)


def kill_and_compare(
    folder: Path,
    *,
    points: int,
    seed: int,
    jobs: int,
    kinds: Sequence[str],
    options: Sequence[str],
    more: str = "",
) -> tuple[list[Outcome], list[Reference]]:
    """The whole procedure in ``folder``."""
    configs = [write_config(folder, kind, more=more) for kind in kinds]
    warm_up(configs[0])
    references = [reference_run(folder, config, options) for config in configs]
    return run_points(range(points), jobs, folder, references, seed), references


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", choices=("epoch", "iteration"), default=["epoch", "iteration"])
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder, deleted)")
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], help="for the training, e.g. fp16.loss_scale=512."
    )
    parser.add_argument("--config-lines", default="", help="more lines for the config, e.g. custom_hooks=[…]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        outcomes, references = kill_and_compare(
            folder,
            points=args.points,
            seed=args.seed,
            jobs=args.jobs,
            kinds=args.kinds,
            options=args.cfg_options,
            more=args.config_lines,
        )
    print(summary(outcomes, references))
    print(f"took {time.monotonic() - started:.0f} s with {args.jobs} at a time")
    return int(any(outcome.faults for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
