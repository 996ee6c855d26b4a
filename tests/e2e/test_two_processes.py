"""Runs of two processes on the CPU: the same numbers as one process, and an end for all whatever ends one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detector.checkpoint.files import load_checkpoint
from detector.engine.checkpoints import find_resume_point
from tests.e2e.runs_of_many import ROOT, Run, free_port, spool, trained, wait_for, write_tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small detector and 80 images of 160 x 96 pixels."""
    return write_tiny(tmp_path_factory.mktemp("many"), images=80)


def run(config: Path, work_dir: Path, *arguments: str, **environ: str) -> Run:
    """`detector train --gpus 2`, on a port of its own."""
    command = ["train", str(config), "--work-dir", str(work_dir), "--seed", "3", "--gpus", "2"]
    command += ["--device", "cpu", *arguments]
    return Run(command, work_dir.with_suffix(".txt"), {"PORT": str(free_port()), **environ})


def began(started: Run, work_dir: Path, lines: int = 2) -> None:
    """Wait for the first lines of training."""
    wait_for(
        lambda: len(trained(work_dir)) >= lines or started.process.poll() is not None,
        within=400,
        say=lambda: started.said,
    )
    assert started.process.poll() is None, started.said


def losses(config: Path, folder: Path, *, world_size: int) -> list[dict[str, float]]:
    """Losses of every iteration with four images a step."""
    out = folder / f"losses_{world_size}.json"
    environ = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    command = [
        sys.executable,
        "-m",
        "tests.e2e.fixed_order_losses",
        str(config),
        str(folder / str(world_size)),
    ]
    ranks = [{"RANK": str(rank), "WORLD_SIZE": str(world_size)} for rank in range(world_size)]
    started = [
        subprocess.Popen(
            [*command, str(4 // world_size), str(out)],
            env={**environ, **(rank if world_size > 1 else {})}, cwd=ROOT, stdout=subprocess.DEVNULL,
        )
        for rank in ranks
    ]  # fmt: skip
    assert [process.wait(300) for process in started] == [0] * world_size
    return list(json.loads(out.read_text()))


def test_two_processes_lose_what_one_with_twice_the_batch_loses(config: Path, tmp_path: Path) -> None:
    """FCOS divides by the mean count over processes, which makes the two exactly equal."""
    two, one = (losses(config, tmp_path, world_size=size) for size in (2, 1))
    assert len(two) == len(one) == 20
    for ours, theirs in zip(two, one, strict=True):
        names = [name for name in theirs if "loss" in name]
        assert len(names) == 4
        assert {name: ours[name] for name in names} == pytest.approx(
            {name: theirs[name] for name in names}, abs=1e-5, rel=0
        )
    first, second = (load_checkpoint(tmp_path / size / "epoch_1.pth").state_dict for size in ("1", "2"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-5, rtol=0)


def test_a_killed_rank_is_named_and_ends_the_run(config: Path, tmp_path: Path) -> None:
    with run(config, tmp_path / "killed") as started:
        began(started, tmp_path / "killed")
        victim = started.rank(1)
        victim.kill()
        code, seconds = started.ended(within=60)
    assert code == 137
    assert f"rank 1 (host {os.uname().nodename}, pid {victim.pid}) was killed by SIGKILL" in started.said
    assert seconds < 60
    assert "batch 4 (base 16): the rate stays 0.01; --auto-scale-lr would make it 0.0025" in started.said


def test_a_suspended_rank_counts_as_dead(config: Path, tmp_path: Path) -> None:
    with run(config, tmp_path / "silent", DETECTOR_HEARTBEAT_S="6") as started:
        began(started, tmp_path / "silent")
        victim = started.rank(0)
        victim.suspend()
        code, seconds = started.ended(within=60)
    assert code != 0
    assert f"rank 0 (host {os.uname().nodename}, pid {victim.pid}): no sign of life for" in started.said
    assert seconds < 30


def test_a_stop_request_saves_and_a_restart_continues(config: Path, tmp_path: Path) -> None:
    work_dir = tmp_path / "stopped"
    with run(config, work_dir) as started:
        began(started, work_dir)
        started.process.send_signal(signal.SIGTERM)
        code, seconds = started.ended(within=60)
    assert code == 143, started.said
    assert seconds < 25
    saved, damaged = find_resume_point(work_dir)
    assert saved is not None
    assert not damaged
    stopped_after = int(load_checkpoint(saved).meta["iter"])
    with run(config, work_dir, "--auto-resume", "--max-restarts", "1") as again:
        began(again, work_dir, lines=stopped_after + 2)
        again.rank(1).kill()
        code, _ = again.ended(within=240)
    assert code == 0, again.said
    lines = trained(work_dir)
    assert lines[: stopped_after + 1] == [(1, n + 1) for n in range(stopped_after + 1)]
    assert lines[-1] == (1, 20)
    assert again.said.count(f"resumed {saved} after iteration {stopped_after} of 20") == 2
    assert [line["mode"] for line in spool(work_dir) if "mode" in line][-1] == "val"


def test_a_taken_port_is_named(config: Path, tmp_path: Path) -> None:
    import socket

    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with run(config, tmp_path / "port", PORT=str(port)) as started:
            code, _ = started.ended(within=60)
    assert code == 1
    assert f"PORT: {port} is taken" in started.said
