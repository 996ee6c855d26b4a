"""`python -m flows.reconcile`: make Prefect show what is true of runs whose process was killed.

A run that is shown as Running although its process is gone becomes Crashed, and a run of a deployment of
this project is scheduled again: it takes finished steps from the cache and goes on from the last checkpoint.
That happens at most three times for a run. A run that was being cancelled becomes Cancelled. `flows.serve`
does all this when it starts and while it serves; the command is for servers and workers started otherwise.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from flows import place
from tasks import leases
from tasks.masking import address

log = logging.getLogger(__name__)

UNFINISHED = ("RUNNING", "PENDING", "CANCELLING")
LIMIT = 3  # times that a run is scheduled again
RESUMING = "Resuming"  # name of the state in which it is, by which the times are counted
SETTLED = 10.0  # seconds that a state must have stood: a flow takes its lease right after it begins
EVERY = 10.0  # seconds between two looks
PAGE = 200  # Prefect's server gives no more at once
WHY = (
    "The process of this run is gone: it was killed, or the machine went down. It could not say so itself; "
    "the project's flows.reconcile found its lease free and no process of it."
)

Run = Mapping[str, Any]


@dataclass
class Reconciler:
    """Compares what a server shows with the processes of this machine.

    Attributes:
        url: of the API.
        own: whether all runs of the server that are in no work pool are of this folder and machine; otherwise
            only those count that have left a lease here.
        resume: whether runs of our deployments are scheduled again.
        seen: ids that were found dead the last time, to wait for whoever is about to say so.
    """

    url: str
    own: bool
    resume: bool = True
    seen: set[str] = field(default_factory=set)

    def once(self, *, patient: bool = False) -> list[str]:
        """Look once and set right what is wrong; returns a line for each run.

        Args:
            patient: act only on what was found the last time too, because a living runner notices the end of
                its processes itself, a moment later.
        """
        dead = {str(run["id"]): run for run in self.dead()}
        ready = [run for name, run in dead.items() if not patient or name in self.seen]
        self.seen = set(dead)
        return [self.settle(run) for run in ready]

    def dead(self) -> Iterable[Run]:
        """Runs without a process: shown as unfinished, or Crashed with a lease left behind."""
        left = set(leases.left())
        for run in self._unfinished():
            if (run["id"] in left or self._is_ours(run)) and _settled(run) and not self._alive(run):
                left.discard(run["id"])
                yield run
        for name in left:
            run = place.get(f"{self.url}/flow_runs/{name}")
            if run and run["state_type"] == "CRASHED" and not leases.alive(name):
                yield run
            elif run and run["state_type"] not in (*UNFINISHED, "SCHEDULED", "CRASHED"):
                leases.drop(name)  # it ended, and was killed only then

    def _unfinished(self) -> list[Run]:
        found: list[Run] = []
        wanted = {"state": {"type": {"any_": list(UNFINISHED)}}}
        while True:
            body = {"flow_runs": wanted, "limit": PAGE, "offset": len(found)}
            found += (rows := self._ask("flow_runs/filter", body))
            if len(rows) < PAGE:
                return found

    def _ask(self, what: str, body: Mapping[str, Any]) -> list[Run]:
        status, rows = place.post(f"{self.url}/{what}", body)
        if status != 200:
            raise OSError(f"{address(self.url)}/{what} answers {status}")
        return list(rows)

    def _is_ours(self, run: Run) -> bool:
        return self.own and run.get("work_pool_id") is None

    def _alive(self, run: Run) -> bool:
        """Whether the run has a process, or, for a flow within a flow, the run around it has."""
        if leases.alive(str(run["id"])):
            return True
        task = run.get("parent_task_run_id")
        above = place.get(f"{self.url}/task_runs/{task}") if task else None
        return above is not None and leases.alive(str(above["flow_run_id"]))

    def settle(self, run: Run) -> str:
        """Give a dead run its state; says what was done."""
        name, label = str(run["id"]), f"run {run['name']} ({run['id']})"
        if run["state_type"] == "CANCELLING":
            self._set(name, "CANCELLED", "Cancelled", "Cancelled; its process is gone.")
            leases.drop(name)
            return f"{label} was being cancelled and its process is gone: now Cancelled"
        self._crash_tasks(name)
        ours = run.get("deployment_id") and self._is_deployed(run)
        times = self._times(name) if ours else 0
        what = self._outcome(bool(ours), times)
        if run["state_type"] != "CRASHED" or times >= LIMIT:
            self._set(name, "CRASHED", "Crashed", f"{WHY} {what}")
        leases.drop(name)  # before it can begin again and take a new one
        if ours and self.resume and times < LIMIT:
            again = f"Goes on from the last checkpoint ({times + 1} of at most {LIMIT} times)."
            self._set(name, "SCHEDULED", RESUMING, again)
        return f"{label} has no process any more (it was {run['state_name']}): Crashed. {what}"

    def _outcome(self, ours: bool, times: int) -> str:
        if not ours:
            return "The same command goes on from its last checkpoint."
        if not self.resume:
            return "`prefect flow-run retry` with its id goes on from its last checkpoint."
        if times >= LIMIT:
            return (
                f"It was scheduled again {times} times and is not any more: its log may say what kills it. "
                "`prefect flow-run retry` with its id goes on from its last checkpoint."
            )
        return "It is scheduled again and goes on from its last checkpoint."

    def _is_deployed(self, run: Run) -> bool:
        body = {"deployments": {"id": {"any_": [run["deployment_id"]]}}}
        rows = self._ask("deployments/filter", body)
        return any(row["name"] in place.DEPLOYMENTS or row.get("work_pool_name") for row in rows)

    def _times(self, name: str) -> int:
        states = place.get(f"{self.url}/flow_run_states/?flow_run_id={name}", timeout=10)
        if states is None:
            raise OSError(
                f"{address(self.url)} does not answer"
            )  # without the number it could go on for ever
        return sum(state["name"] == RESUMING for state in states)

    def _crash_tasks(self, name: str) -> None:
        wanted = {
            "flow_runs": {"id": {"any_": [name]}},
            "task_runs": {"state": {"type": {"any_": ["RUNNING"]}}},
        }
        state = {"type": "CRASHED", "name": "Crashed", "message": WHY}
        for row in self._ask("task_runs/filter", wanted):
            place.post(f"{self.url}/task_runs/{row['id']}/set_state", {"state": state, "force": True})

    def _set(self, name: str, kind: str, shown: str, message: str) -> None:
        state: dict[str, Any] = {"type": kind, "name": shown, "message": message}
        if kind == "SCHEDULED":
            state["state_details"] = {"scheduled_time": datetime.now(UTC).isoformat()}
        body = {"state": state, "force": True}
        status, answer = place.post(f"{self.url}/flow_runs/{name}/set_state", body)
        if status not in (200, 201):
            raise OSError(f"{address(self.url)} answers {status} to the state {shown} of {name}: {answer}")


def _settled(run: Run) -> bool:
    since = datetime.fromisoformat(run["state"]["timestamp"])
    return (datetime.now(UTC) - since).total_seconds() >= SETTLED


def watch(
    reconciler: Reconciler, say: Callable[[str], None], stopped: threading.Event, every: float = EVERY
) -> None:
    """Look again and again until ``stopped``; a server that does not answer is asked the next time."""
    while not stopped.wait(every):
        try:
            for line in reconciler.once(patient=True):
                say(line)
        except Exception as error:
            log.debug("%s: %s", type(error).__name__, error)


def main(argv: Sequence[str] | None = None) -> int:
    """Look once."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--no-resume", action="store_true", help="mark them only, schedule nothing again")
    arguments = parser.parse_args(argv)
    found = place.live()
    url = os.environ.get("PREFECT_API_URL") or (found.url if found else "")
    if not url or not place.healthy(url.rstrip("/")):
        where = f"at {address(url)}" if url else "in this folder"
        print(f"no Prefect server answers {where}; start it, or correct PREFECT_API_URL", file=sys.stderr)
        return 1
    lines = Reconciler(url.rstrip("/"), own=False, resume=not arguments.no_resume).once()
    print("\n".join(lines) or "every run of this folder that is shown as running has its process")
    return 0


if __name__ == "__main__":
    sys.exit(main())
