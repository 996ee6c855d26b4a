"""Slurm: ranks from its environment, host lists, the srun line, and what a stopped task returns."""

from __future__ import annotations

import os
import signal
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.cli import main
from detector.engine import slurm
from detector.engine.interrupts import Interrupted
from detector.errors import ConfigError, MachineError

TASK = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "77"}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[03-07,9],cpu1", "gpu03"),
        ("gpu[12,3-4]", "gpu12"),
        ("rack[1-2]node[3-4].site", "rack1node3.site"),
        ("a-b-[001-128]", "a-b-001"),
        ("", ""),
    ],
)
def test_first_host(nodes: str, first: str) -> None:
    assert slurm.first_host(nodes) == first


@settings(max_examples=50)
@given(
    stem=st.from_regex(r"[a-z][a-z0-9-]{0,6}", fullmatch=True),
    numbers=st.lists(st.integers(0, 9999), min_size=1, max_size=4),
    width=st.integers(1, 5),
    others=st.lists(st.from_regex(r"[a-z]{1,4}(\[1-3\])?", fullmatch=True), max_size=2),
)
def test_first_host_of_any_list(stem: str, numbers: list[int], width: int, others: list[str]) -> None:
    written = [f"{number:0{width}d}" for number in numbers]
    assert slurm.first_host(",".join([f"{stem}[{','.join(written)}]", *others])) == stem + written[0]


@pytest.mark.parametrize(
    ("added", "port", "address", "expected"),
    [
        pytest.param({"MASTER_PORT": "5"}, 4, "n03", "4", id="config first"),
        pytest.param({"MASTER_PORT": "5"}, None, "n03", "5", id="then the environment"),
        pytest.param({}, None, "n03", "15077", id="then the job's number"),
        pytest.param({"SLURM_STEP_ID": "2"}, None, "n03", str(15077 + 2018), id="and the step's"),
        pytest.param({"MASTER_ADDR": "x"}, None, "x", "15077", id="address given"),
    ],
)
def test_rank_environment(added: dict[str, str], port: int | None, address: str, expected: str) -> None:
    found = slurm.rank_environment({**TASK, "SLURM_JOB_NODELIST": "n[03-04]", **added}, port)
    assert found == {
        "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": address, "MASTER_PORT": expected,
    }  # fmt: skip


@given(st.integers(0, 2**31), st.integers(0, 5000))
def test_derived_ports_stay_below_those_of_the_system(job: int, step: int) -> None:
    port = slurm.derived_port({"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})
    assert 15000 <= port < 29000


def test_without_srun_there_are_no_ranks() -> None:
    with pytest.raises(ConfigError, match="lacks SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID"):
        slurm.rank_environment({})
    with pytest.raises(ConfigError, match="lacks SLURM_JOB_NODELIST"):
        slurm.rank_environment(TASK)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param(
            {},
            ["--gres=gpu:8", "--ntasks=8", "--ntasks-per-node=8", "--cpus-per-task=5",
             "--kill-on-bad-exit=1"],
            id="defaults",
        ),
        pytest.param(
            {"GPUS": "4", "CPUS_PER_TASK": "2", "SRUN_ARGS": "--qos='a b' -x n1"},
            ["--gres=gpu:4", "--ntasks=4", "--ntasks-per-node=4", "--cpus-per-task=2", "--kill-on-bad-exit=1",
             "--qos=a b", "-x", "n1"],
            id="part of a machine",
        ),
        pytest.param(
            {"GPUS": "2", "GPUS_PER_NODE": "0"},
            ["--ntasks=2", "--cpus-per-task=5", "--kill-on-bad-exit=1"],
            id="no GPUs",
        ),
    ],
)  # fmt: skip
def test_srun_line(environ: dict[str, str], expected: list[str]) -> None:
    line = slurm.srun_line("part", "name", ["train", "c.py"], environ=environ)
    assert line[:3] == ["srun", "--partition=part", "--job-name=name"]
    assert line[3:-6] == expected
    assert line[-6:] == [sys.executable, "-u", "-m", "detector", "train", "c.py"]


@pytest.mark.parametrize(
    "environ", [{"GPUS": "0"}, {"GPUS_PER_NODE": "-1"}, {"CPUS_PER_TASK": "many"}], ids=str
)
def test_bad_numbers_are_named(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(environ))):
        slurm.srun_line("p", "n", [], environ=environ)


@pytest.mark.parametrize(
    ("arguments", "end"),
    [
        pytest.param(
            ["slurm-train", "--dry-run", "p", "n", "mask_rcnn_r18_fpn_sample", "w", "--seed", "1"],
            "train mask_rcnn_r18_fpn_sample --work-dir=w --launcher=slurm --auto-resume --seed 1",
            id="train",
        ),
        pytest.param(
            ["slurm-test", "p", "n", "mask_rcnn_r18_fpn_sample", "c.pth", "--eval", "bbox", "--dry-run"],
            "test mask_rcnn_r18_fpn_sample c.pth --launcher=slurm --eval bbox",
            id="test",
        ),
    ],
)
def test_dry_run_prints_the_line(arguments: list[str], end: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("srun --partition=p --job-name=n ")
    assert printed.rstrip().endswith(f"-m detector {end}")


def test_an_unknown_config_is_refused_before_the_queue(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm-train", "p", "n", "mask_rcn_r18_fpn_sample", "w"]) == 1
    assert "mask_rcn_r18_fpn_sample" in capsys.readouterr().err


def test_a_machine_without_slurm_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MachineError, match="detector train CONFIG --gpus N"):
        slurm.run_line(["srun", "x"], dry_run=False)


def fake_scontrol(folder: Path, facts: str, *, requeue: int = 0) -> None:
    """A controller that knows one job; writes down what it is asked for."""
    program = folder / "scontrol"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/asked\n'
        f'if [ "$1" = show ]; then echo "{facts}"; else exit {requeue}; fi\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("number", "facts", "code", "asked"),
    [
        pytest.param(signal.SIGTERM, "JobState=RUNNING BatchFlag=1", 75, True, id="pushed off"),
        pytest.param(signal.SIGUSR1, "JobState=RUNNING BatchFlag=1", 75, True, id="asked by USR1"),
        pytest.param(signal.SIGUSR1, "JobState=RUNNING BatchFlag=0", 75, False, id="no batch job"),
        pytest.param(signal.SIGTERM, "JobState=CANCELLED BatchFlag=1", 143, False, id="cancelled"),
        pytest.param(signal.SIGTERM, "JobState=TIMEOUT BatchFlag=1", 143, False, id="time is over"),
        pytest.param(signal.SIGINT, "JobState=RUNNING BatchFlag=1", 130, False, id="Ctrl-C"),
    ],
)
def test_what_a_stopped_task_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, facts: str, code: int, asked: bool
) -> None:
    fake_scontrol(tmp_path, facts)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert slurm.exit_code(Interrupted(number), {"SLURM_JOB_ID": "7"}, first=True) == code
    said = (tmp_path / "asked").read_text().splitlines()
    assert ("requeue 7" in said) is asked


def test_only_the_first_task_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_scontrol(tmp_path, "JobState=RUNNING BatchFlag=1")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert slurm.exit_code(Interrupted(15), {"SLURM_JOB_ID": "7"}, first=False) == 75
    assert "requeue" not in (tmp_path / "asked").read_text()


def test_outside_slurm_the_signal_decides() -> None:
    assert slurm.exit_code(Interrupted(15), {}, first=True) == 143
