from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows import place, reconcile
from flows.reconcile import LIMIT, RESUMING, Reconciler
from tasks import leases

URL = "http://127.0.0.1:1/api"


class Server:
    """What the reconciler asks of Prefect's server, answered from a list of runs."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.tasks: dict[str, str] = {}  # task run -> flow run
        self.set: list[tuple[str, str, str]] = []
        self.resumed: dict[str, int] = {}

    def add(self, name: str, state: str, *, deployed: bool = True, age: float = 60.0, **more: Any) -> None:
        since = (datetime.now(UTC) - timedelta(seconds=age)).isoformat()
        self.runs[name] = {
            "id": name, "name": f"run of {name}", "state_type": state, "state_name": state.title(),
            "state": {"timestamp": since}, "deployment_id": "ours" if deployed else None, **more,
        }  # fmt: skip

    def get(self, url: str, timeout: float = 2.0) -> Any:
        what, _, name = url.removeprefix(f"{URL}/").replace("?flow_run_id=", "").rpartition("/")
        if what == "flow_run_states":
            return [{"name": RESUMING}] * self.resumed.get(name, 0) + [{"name": "Running"}]
        if what == "task_runs":
            return {"flow_run_id": self.tasks[name]}
        return self.runs.get(name)

    def post(self, url: str, body: Any, timeout: float = 10.0) -> tuple[int, Any]:
        what = url.removeprefix(f"{URL}/")
        if what == "flow_runs/filter":
            kinds = body["flow_runs"]["state"]["type"]["any_"]
            found = [run for run in self.runs.values() if run["state_type"] in kinds]
            return 200, found[body["offset"] : body["offset"] + body["limit"]]
        if what == "deployments/filter":
            return 200, [{"name": "train"}] if body["deployments"]["id"]["any_"] == ["ours"] else []
        if what == "task_runs/filter":
            return 200, [{"id": "task"}]
        kind, name, _ = what.split("/")
        state = body["state"]
        self.set.append((name, state["name"], state["message"]))
        if kind == "flow_runs":
            assert body["force"]
            self.runs[name]["state_type"] = state["type"]
        return 201, {}

    def shown(self, name: str) -> list[str]:
        return [state for run, state, _ in self.set if run == name]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(place, "get", made.get)
    monkeypatch.setattr(place, "post", made.post)
    return made


def leave_lease(name: str) -> None:
    leases.FOLDER.mkdir(parents=True, exist_ok=True)
    (leases.FOLDER / f"{name}{leases.SUFFIX}").touch()


@pytest.mark.parametrize("state", ["RUNNING", "PENDING"])
def test_dead_run_of_a_deployment_crashes_and_is_scheduled_again(server: Server, state: str) -> None:
    server.add("a", state)
    leave_lease("a")
    said = Reconciler(URL, own=True).once()
    assert server.shown("a") == ["Crashed", RESUMING]
    assert server.shown("task") == ["Crashed"]
    assert len(said) == 1
    assert "run of a (a)" in said[0]
    assert "goes on from its last checkpoint" in said[0]
    assert leases.left() == []


@pytest.mark.parametrize(("times", "states"), [(0, ["Crashed", RESUMING]), (LIMIT, ["Crashed"])])
def test_it_is_scheduled_again_only_so_often(server: Server, times: int, states: list[str]) -> None:
    server.add("a", "RUNNING")
    server.resumed["a"] = times
    Reconciler(URL, own=True).once()
    assert server.shown("a") == states
    assert ("scheduled again 3 times and is not any more" in server.set[-1][2]) is (times == LIMIT)


def test_no_resume_marks_only(server: Server) -> None:
    server.add("a", "RUNNING")
    leave_lease("a")
    Reconciler(URL, own=True, resume=False).once()
    assert server.shown("a") == ["Crashed"]
    assert "prefect flow-run retry" in server.set[-1][2]
    assert leases.left() == []  # a later start with resuming does not take it up


def test_direct_flow_is_marked_only(server: Server) -> None:
    server.add("a", "RUNNING", deployed=False)
    Reconciler(URL, own=True).once()
    assert server.shown("a") == ["Crashed"]
    assert "The same command goes on" in server.set[-1][2]


def test_run_that_was_being_cancelled_is_not_taken_up(server: Server) -> None:
    server.add("a", "CANCELLING")
    leave_lease("a")
    Reconciler(URL, own=True).once()
    assert server.shown("a") == ["Cancelled"]


def test_run_that_the_runner_has_marked_is_taken_up(server: Server) -> None:
    server.add("a", "CRASHED")
    server.add("b", "CRASHED")  # ended by itself: it has left no lease
    leave_lease("a")
    Reconciler(URL, own=True).once()
    assert server.shown("a") == [RESUMING]
    assert server.shown("b") == []


@pytest.mark.parametrize("state", ["COMPLETED", "CANCELLED", "FAILED"])
def test_lease_of_an_ended_run_goes(server: Server, state: str) -> None:
    server.add("a", state)
    leave_lease("a")
    assert Reconciler(URL, own=True).once() == []
    assert server.set == []
    assert leases.left() == []


def test_living_and_foreign_runs_are_left_alone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "alive", lambda run: run in ("living", "parent"))
    server.add("living", "RUNNING")
    server.add("fresh", "RUNNING", age=1.0)
    server.add("worker", "RUNNING", work_pool_id="pool")
    server.add("child", "RUNNING", deployed=False, parent_task_run_id="task of parent")
    server.tasks["task of parent"] = "parent"
    assert Reconciler(URL, own=True).once() == []


@pytest.mark.parametrize("leased", [True, False])
def test_on_a_server_of_others_only_a_lease_counts(server: Server, leased: bool) -> None:
    server.add("a", "RUNNING", work_pool_id="pool")
    if leased:
        leave_lease("a")
    Reconciler(URL, own=False).once()
    assert server.shown("a") == (["Crashed", RESUMING] if leased else [])


def test_a_living_runner_has_the_first_word(server: Server) -> None:
    server.add("a", "RUNNING")
    ours = Reconciler(URL, own=True)
    assert ours.once(patient=True) == []
    assert len(ours.once(patient=True)) == 1


def test_all_pages_are_read(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "PAGE", 2)
    for name in "abcde":
        server.add(name, "RUNNING")
    assert len(Reconciler(URL, own=True).once()) == 5


def test_watching_outlives_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped, asked, said = threading.Event(), list[int](), list[str]()

    class Flaky(Reconciler):
        def once(self, *, patient: bool = False) -> list[str]:
            asked.append(1)
            if len(asked) == 1:
                raise ConnectionError("no server")
            stopped.set()
            return ["found"]

    reconcile.watch(Flaky(URL, own=True), said.append, stopped, every=0.01)
    assert said == ["found"]


def test_command_says_that_no_server_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "http://somebody:secret@127.0.0.1:1/api")
    assert reconcile.main([]) == 1
    said = capsys.readouterr().err
    assert "no Prefect server answers at http://127.0.0.1:1/api" in said
    assert "secret" not in said
