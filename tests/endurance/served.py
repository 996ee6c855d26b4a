"""A project folder of its own with a small `sample`, its `flows.serve`, and the processes of its runs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from detector.checkpoint.files import load_checkpoint
from flows import place
from tests.endurance.records import tensor_digest

ROOT = Path(__file__).resolve().parents[2]
RECIPE = {"train": 12, "val": 4, "test": 2}  # images
# the sample's own model, an image a step instead of four: a cancel waits for the step that is under way
CONFIG = """_base_ = './configs/mask_rcnn/mask_rcnn_r18_fpn_sample.py'
data = dict(samples_per_gpu=1)
"""
NAME = "mask_rcnn_sample_single"
OURS = ("PREFECT_", "DVC_", "MLFLOW_")  # settings of the surroundings that must not reach the project


@dataclass
class Project:
    """The folder and the port of its server."""

    folder: Path
    port: int
    more: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def runs(self) -> Path:
        return self.folder / "runs" / NAME

    @property
    def work_dir(self) -> Path:
        return self.runs / "seed0" / "train"

    @property
    def env(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        paths = [self.more.get("PYTHONPATH", ""), str(ROOT)]
        return {
            **kept, **self.more, "PREFECT_SERVER_API_PORT": str(self.port), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        }  # fmt: skip

    def make(self) -> None:
        """Copy what the pipeline reads; fewer pictures."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("pyproject.toml", "params.yaml"):
            shutil.copy(ROOT / name, self.folder)
        shutil.copytree(ROOT / "configs", self.folder / "configs")
        recipe = self.folder / "configs" / "sources" / "sample.yaml"
        text = recipe.read_text()
        for name, count in RECIPE.items():
            text = re.sub(rf"(?m)^  {name}: \d+$", f"  {name}: {count}", text)
        recipe.write_text(text)
        (self.folder / f"{NAME}.py").write_text(CONFIG)

    def run(self, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command in the folder."""
        return subprocess.run(
            [sys.executable, "-m", *words], cwd=self.folder, env=self.env, capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip

    def serve(self, *words: str, patience: float = 120) -> subprocess.Popen[bytes]:
        """Start `flows.serve` and wait until its deployments are polled.

        Raises:
            RuntimeError: it ended or did not become ready.
        """
        with (self.folder / "serve.txt").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.serve", *words], cwd=self.folder, env=self.env,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        end = time.monotonic() + patience
        while not place.serves(self.url, ["train"]):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError((self.folder / "serve.txt").read_text()[-3000:])
            time.sleep(0.2)
        return process

    def submit(self, flow: str, **parameters: Any) -> str:
        """Ask for a run of our config; returns its id."""
        deployment = place.get(f"{self.url}/deployments/name/{flow}/{flow}")["id"]
        asked = {"parameters": {"config": f"{NAME}.py", "device": "cpu", **parameters}}
        _, made = place.post(f"{self.url}/deployments/{deployment}/create_flow_run", asked)
        return str(made["id"])

    def cancel(self, run: str) -> str:
        """What `prefect flow-run cancel` asks of the server, at once; what went wrong, or nothing."""
        state = {"type": "CANCELLING", "name": "Cancelling"}
        status, answer = place.post(f"{self.url}/flow_runs/{run}/set_state", {"state": state})
        return "" if status in (200, 201) and answer["status"] == "ACCEPT" else f"{status}: {answer}"

    def whole(self, epochs: int, seed: int) -> str:
        """Train without the pipeline and an interruption; the digest of the last weights.

        Raises:
            RuntimeError: it failed.
        """
        words = ["train", f"{NAME}.py", "--work-dir", f"whole{seed}", "--seed", str(seed), "--device", "cpu"]
        done = self.run("detector", *words, "--cfg-options", f"runner.max_epochs={epochs}", timeout=1800)
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        latest = load_checkpoint(self.folder / f"whole{seed}" / "latest.pth")
        return tensor_digest(latest.state_dict)

    def weights(self, seed: int) -> str:
        """The digest of the weights that a run ended with."""
        model = self.runs / f"seed{seed}" / "model.pth"
        return tensor_digest(load_checkpoint(model).state_dict) if model.is_file() else "none"

    def state(self, run: str) -> str:
        """The name of the run's state now."""
        found = place.get(f"{self.url}/flow_runs/{run}", timeout=10)
        return str(found["state_name"]) if found else ""

    def states(self, run: str) -> list[tuple[str, str, float]]:
        """Name, message and time (seconds since 1970) of all states the run had."""
        found = place.get(f"{self.url}/flow_run_states/?flow_run_id={run}", timeout=10) or []
        rows = [(item["name"], item["message"] or "", _seconds(item["timestamp"])) for item in found]
        return sorted(rows, key=lambda row: row[2])

    def wait(self, run: str, *names: str, patience: float = 600) -> str:
        """Wait for one of the states; returns the last one seen."""
        end = time.monotonic() + patience
        while (state := self.state(run)) not in names and time.monotonic() < end:
            time.sleep(0.3)
        return state


def family(run: str) -> list[psutil.Process]:
    """The living processes of a flow run: its own, the steps', the training's and the loader's workers."""
    living = psutil.process_iter(["environ", "status"])
    return [
        process for process in living
        if (process.info["environ"] or {}).get("PREFECT__FLOW_RUN_ID") == run
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]  # fmt: skip


def tree(pid: int) -> list[psutil.Process]:
    """A process with all its descendants."""
    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    return []


def kill(processes: list[psutil.Process]) -> None:
    """SIGKILL them all at once: stopped first, so that none sees another go."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


@contextlib.contextmanager
def serving(project: Project, *words: str) -> Iterator[None]:
    """Serve the project's deployments meanwhile."""
    process = project.serve(*words)
    try:
        yield
    finally:
        project.run("flows.serve", "--stop")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        kill(tree(process.pid))


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
