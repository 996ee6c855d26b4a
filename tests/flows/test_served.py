"""The pipeline as users run it, with steps that take no time (see toy/sitecustomize.py)."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import place

PROJECT = Path(__file__).resolve().parents[2]
PREFECT = str(Path(sys.executable).with_name("prefect"))
LOGIN = "team:correct-horse-battery"  # of the server; nothing may tell it
STEPS = ["prepare", "convert", "train", "evaluate", "format"]

pytestmark = [pytest.mark.slow, pytest.mark.flow]


class Shell:
    """A project folder of its own, and commands run in it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}/api"
        self.env = {
            name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DVC_"))
        }
        self.env.update(PYTHONPATH=str(Path(__file__).parent / "toy"), PREFECT_SERVER_API_PORT=str(port))
        self.env[place.SERVER_LOGIN] = LOGIN
        self.env["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "120"  # beside other work

    def run(self, *command: str, timeout: float = 200) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ran(self) -> list[str]:
        path = self.folder / "ran.txt"
        return path.read_text().split() if path.exists() else []

    def states(self, run_name: str) -> list[tuple[str, str]]:
        body = {"flow_runs": {"name": {"any_": [run_name]}}, "sort": "EXPECTED_START_TIME_ASC", "limit": None}
        _, found = place.post(f"{self.url}/task_runs/filter", body)
        return [(task["task_key"].split("-")[0], task["state_name"]) for task in found]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(PROJECT / "pyproject.toml", folder)
    shutil.copy(PROJECT / "params.yaml", folder)
    shutil.copy(PROJECT / "prefect.yaml", folder)
    for name in ("configs", "flows", "docs/pools"):
        shutil.copytree(PROJECT / name, folder / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Shell(folder, port)
    with pytest.MonkeyPatch.context() as ours:
        ours.setenv(place.CLIENT_LOGIN, LOGIN)
        yield made
    made.run(sys.executable, "-m", "flows.serve", "--stop")


@pytest.fixture(scope="module")
def first(shell: Shell) -> subprocess.CompletedProcess[str]:
    return shell.run(PREFECT, "deployment", "run", "train-eval", "--param", "config=mask_rcnn", "--watch")


def test_the_documented_command_works_with_nothing_started(
    shell: Shell, first: subprocess.CompletedProcess[str]
) -> None:
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Completed" in first.stdout
    assert "starting `python -m flows.serve` in the background" in first.stderr
    assert shell.ran() == STEPS


@pytest.mark.parametrize("entity", ["flow_runs", "task_runs", "deployments", "artifacts", "logs"])
def test_server_accepts_a_limit_of_null(shell: Shell, first: object, entity: str) -> None:
    """fastapi 0.151 and newer answer 422 to this under Prefect 3.8, which breaks `prefect deploy`."""
    status, answer = place.post(f"{shell.url}/{entity}/filter", {"limit": None})
    assert (status, type(answer)) == (200, list), answer


def test_second_run_is_cached_and_a_lost_output_runs_alone(shell: Shell, first: object) -> None:
    run = ("deployment", "run", "train-eval", "--param", "config=mask_rcnn_r18_fpn_sample", "--watch")
    assert shell.run(PREFECT, *run).returncode == 0
    assert shell.ran() == STEPS
    states = shell.states("mask_rcnn_r18_fpn_sample-seed0")
    assert sorted(name for name, _ in states) == sorted(STEPS)
    assert {state for _, state in states} == {"Cached"}
    (shell.folder / "runs" / "mask_rcnn_r18_fpn_sample" / "seed0" / "loss.csv").unlink()
    assert shell.run(PREFECT, *run).returncode == 0
    assert shell.ran() == [*STEPS, "train"]


def test_another_seed_trains_again_and_the_report_is_shown(shell: Shell, first: object) -> None:
    before = len(shell.ran())
    done = shell.run(PREFECT, "deployment", "run", "train-eval", "--param", "seed=1", "--watch")
    assert done.returncode == 0, done.stdout
    assert shell.ran()[before:] == ["train", "evaluate", "format"]
    _, found = place.post(f"{shell.url}/artifacts/latest/filter", {})
    shown = {item["key"]: item["data"] for item in found}
    assert "| bbox_mAP | 0.5000 |" in shown["train-eval-report"]
    assert json.loads(shown["train-eval-metrics"])[0] == {"metric": "bbox_mAP", "value": 0.5}


def test_without_the_login_nobody_is_let_in(
    shell: Shell, first: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(place.CLIENT_LOGIN, "team:wrong")
    assert place.post(f"{shell.url}/flow_runs/filter", {})[0] == 401


def test_the_login_is_in_no_file(shell: Shell, first: subprocess.CompletedProcess[str]) -> None:
    files = [path for path in shell.folder.rglob("*") if path.is_file()]
    assert {"prefect.db", "serve.log", "server.log"} <= {path.name for path in files}
    assert any(path.parent.name == "steps" for path in files)
    password = LOGIN.partition(":")[2].encode()
    assert [path for path in files if password in path.read_bytes()] == []
    assert password not in (first.stdout + first.stderr).encode()


def test_deployments_for_work_pools_are_accepted(shell: Shell, first: object) -> None:
    for name, kind in (("processes", "process"), ("containers", "docker"), ("cluster", "kubernetes")):
        template = shell.folder / "docs" / "pools" / f"{kind}.json"
        given = ("--base-job-template", str(template)) if template.is_file() else ()
        made = shell.run(PREFECT, "work-pool", "create", name, "--type", kind, *given)
        assert made.returncode == 0, made.stdout + made.stderr
    done = shell.run(PREFECT, "--no-prompt", "deploy", "--all", timeout=350)
    assert done.returncode == 0, done.stdout + done.stderr
    _, found = place.post(f"{shell.url}/deployments/filter", {})
    assert {one["name"] for one in found if one["work_pool_name"]} == {"process", "docker", "kubernetes"}
    assert sum(bool(one["work_pool_name"]) for one in found) == 3 * len(place.DEPLOYMENTS)


def test_wrong_parameter_is_refused(shell: Shell, first: object) -> None:
    done = shell.run(PREFECT, "deployment", "run", "train-eval", "--param", "seeed=1")
    assert done.returncode == 1


def test_the_command_line_finds_what_prefect_ran(shell: Shell, first: object) -> None:
    done = shell.run(sys.executable, "-m", "tasks", "convert")
    assert done.returncode == 0, done.stderr
    assert "up to date" in done.stdout


def test_a_second_serve_leaves_the_first_alone(shell: Shell, first: object) -> None:
    done = shell.run(sys.executable, "-m", "flows.serve")
    assert done.returncode == 0
    assert "already runs in this folder (process" in done.stdout
    assert shell.url in done.stdout


def test_stop_ends_the_server_and_the_flow_runs_without_one(shell: Shell, first: object) -> None:
    stopped = shell.run(sys.executable, "-m", "flows.serve", "--stop")
    assert "stopped" in stopped.stdout
    assert not place.healthy(shell.url)
    assert not (shell.folder / ".prefect" / "serve.json").exists()
    assert "RuntimeWarning" not in (shell.folder / ".prefect" / "serve.log").read_text()
    before = len(shell.ran())
    alone = shell.run(sys.executable, "-m", "flows.train_eval", "--config", "mask_rcnn", "--seed", "2")
    assert alone.returncode == 0, alone.stderr
    assert shell.ran()[before:] == ["train", "evaluate", "format"]
