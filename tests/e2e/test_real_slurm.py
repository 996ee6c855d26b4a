"""`detector slurm-train` on a real Slurm of this machine: two tasks, pushed off, queued again, continued."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from detector.engine.checkpoints import find_resume_point
from tests.e2e.runs_of_many import ROOT, spool, trained, wait_for, write_tiny
from tests.e2e.slurm_on_one_machine import SlurmUnavailable, slurm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
HOW = {"GPUS": "2", "GPUS_PER_NODE": "0", "CPUS_PER_TASK": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Mapping[str, str]]:
    """Environment of the commands."""
    try:
        with slurm() as environ:
            yield {**environ, **HOW}
    except SlurmUnavailable as reason:
        pytest.skip(f"no Slurm here: {reason}")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small detector: 20 iterations of two processes."""
    return write_tiny(tmp_path_factory.mktemp("slurm"), images=80)


def submit(cluster: Mapping[str, str], out: Path, *arguments: str, lines: str) -> str:
    """Number of a new batch job."""
    script = out.with_suffix(".sh")
    script.write_text(f"#!/bin/bash\ncd {ROOT}\n{lines}\n")
    command = ["sbatch", "--parsable", f"--output={out}", "--open-mode=append", *arguments, str(script)]
    return subprocess.run(
        command, env=dict(cluster), capture_output=True, text=True, check=True
    ).stdout.strip()


def state(cluster: Mapping[str, str], job: str) -> str:
    """State of a job, such as RUNNING."""
    command = ["scontrol", "show", "job", job]
    said = subprocess.run(command, env=dict(cluster), capture_output=True, text=True, check=False).stdout
    found = re.search(r"JobState=(\w+)", said)
    return found.group(1) if found else ""


def test_a_job_that_is_pushed_off_goes_back_into_the_queue_and_continues(
    cluster: Mapping[str, str], config: Path, tmp_path: Path
) -> None:
    work_dir, out = tmp_path / "run", tmp_path / "job.txt"
    command = f"{sys.executable} -m detector slurm-train low tiny {config} {work_dir} --seed 3 --device cpu"
    job = submit(cluster, out, "--partition=low", "--ntasks=2", "--requeue", lines=f"exec {command}")
    wait_for(lambda: len(trained(work_dir)) >= 2, within=400, say=lambda: out.read_text())
    urgent = submit(cluster, tmp_path / "urgent.txt", "--partition=high", "--ntasks=2", lines="sleep 2")
    wait_for(lambda: state(cluster, urgent) == "COMPLETED", within=120, say=out.read_text)
    stopped, damaged = find_resume_point(work_dir)
    assert stopped is not None
    assert stopped.name.startswith("stopped_iter_")
    assert not damaged
    wait_for(lambda: state(cluster, job) == "COMPLETED", within=400, say=out.read_text)
    said = out.read_text()
    assert "srun --partition=low --job-name=tiny --ntasks=2 --cpus-per-task=1 --kill-on-bad-exit=1" in said
    assert "stopped by SIGTERM; saved" in said
    assert f"job {job} is queued again" in said
    assert f"resumed {stopped} after iteration" in said
    assert trained(work_dir) == [(1, number) for number in range(1, 21)]
    assert {meta["env_info"] is not None for meta in spool(work_dir) if "env_info" in meta} == {True}


def test_a_job_without_batch_script_says_how_to_continue(
    cluster: Mapping[str, str], config: Path, tmp_path: Path
) -> None:
    work_dir, out = tmp_path / "direct", tmp_path / "direct.txt"
    command = [sys.executable, "-m", "detector", "slurm-train", "low", "direct", str(config), str(work_dir)]
    with out.open("w") as stream:
        process = subprocess.Popen(
            [*command, "--device", "cpu"], env=dict(cluster), stdout=stream, stderr=stream, cwd=ROOT
        )
    wait_for(lambda: len(trained(work_dir)) >= 1, within=400, say=out.read_text)
    subprocess.run(["scancel", "--signal=USR1", "--name=direct"], env=dict(cluster), check=True)
    assert process.wait(120) == 75, out.read_text()
    assert "stopped by SIGUSR1; saved" in out.read_text()
    assert "run the same command to continue" in out.read_text()
    assert find_resume_point(work_dir)[0] is not None
