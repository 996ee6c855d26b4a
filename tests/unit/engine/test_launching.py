"""What --gpus and the reference's variables start, and the report on processes that failed."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from detector.engine import launching, restarts
from detector.engine.launching import Job
from detector.errors import ConfigError, MachineError


@pytest.mark.parametrize(
    ("processes", "again", "environ", "expected"),
    [
        pytest.param(None, 0, {"NNODES": "2"}, Job(1), id="not asked"),
        pytest.param(1, 0, {}, Job(1), id="one"),
        pytest.param(8, 0, {}, Job(8), id="one machine"),
        pytest.param(
            2,
            0,
            {"NNODES": "3", "NODE_RANK": "2", "PORT": "29501", "MASTER_ADDR": "a"},
            Job(2, nodes=3, node_rank=2, address="a", port=29501),
            id="three machines",
        ),
        pytest.param(None, 2, {}, Job(1, max_restarts=2), id="restarts of one"),
    ],
)
def test_job(processes: int | None, again: int, environ: dict[str, str], expected: Job) -> None:
    assert launching.read_job(processes, max_restarts=again, environ=environ) == expected


@pytest.mark.parametrize(
    ("job", "several"),
    [(Job(1), False), (Job(2), True), (Job(1, nodes=2), True), (Job(1, max_restarts=1), True)],
)
def test_one_process_is_not_launched(job: Job, several: bool) -> None:
    assert job.several is several


@pytest.mark.parametrize(
    ("processes", "environ", "named"),
    [
        (0, {}, "--gpus: found 0"),
        (2, {"NNODES": "two"}, "NNODES: found 'two'"),
        (2, {"NNODES": "2"}, "MASTER_ADDR: found nothing"),
        (2, {"NNODES": "2", "MASTER_ADDR": "a", "NODE_RANK": "2"}, "from 0 to 1"),
        (2, {"PORT": "99999"}, "PORT: found '99999'"),
    ],
)
def test_bad_requests(processes: int, environ: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        launching.read_job(processes, environ=environ)


@pytest.mark.parametrize(("device", "gpu_ids"), [("cuda:1", None), (None, [1])])
def test_one_device_for_several_is_refused(device: str | None, gpu_ids: list[int] | None) -> None:
    with pytest.raises(ConfigError, match="--gpus: found one device"):
        launching.check_devices(device, gpu_ids)


def test_a_taken_port_is_named() -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(MachineError, match=rf"PORT: {port} is taken .* PORT={port + 1}"):
            launching.launch(Job(2, port=port), ["train"], device="cpu")


def failure(folder: Path, rank: int, code: int, said: str | None) -> ProcessFailure:
    """A process that ended."""
    file = folder / f"{rank}.json"
    if said is not None:
        message = {"message": said, "extraInfo": {"py_callstack": "", "timestamp": "1"}}
        file.write_text(json.dumps({"message": message}))
    return ProcessFailure(local_rank=rank, pid=100 + rank, exitcode=code, error_file=str(file))


def test_report_names_the_cause_first(tmp_path: Path) -> None:
    failures = {
        0: failure(tmp_path, 0, 1, "PeerError: the connection broke"),
        1: failure(tmp_path, 1, 1, "ValueError: bad"),
        2: failure(tmp_path, 2, -9, None),
        3: failure(tmp_path, 3, 2, None),
        4: failure(tmp_path, 4, -15, None),
    }
    host = socket.gethostname()
    assert launching.report(launching.ordered(failures)) == [
        f"rank 2 (host {host}, pid 102) was killed by SIGKILL (kill -9, or the machine had no memory left)",
        f"rank 1 (host {host}, pid 101) ended with exit code 1: ValueError: bad",
        f"rank 3 (host {host}, pid 103) ended with exit code 2",
        f"rank 0 (host {host}, pid 100) ended with exit code 1: PeerError: the connection broke",
        f"rank 4 (host {host}, pid 104) was killed by SIGTERM",
    ]


def test_restarts_need_a_work_dir_of_their_own(tmp_path: Path) -> None:
    restarts.check_restarts(1, tmp_path, auto_resume=False)
    (tmp_path / "epoch_3.pth").touch()
    restarts.check_restarts(0, tmp_path, auto_resume=False)
    restarts.check_restarts(1, tmp_path, auto_resume=True)
    with pytest.raises(ConfigError, match=r"epoch_3\.pth of an earlier run"):
        restarts.check_restarts(1, tmp_path, auto_resume=False)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({}, ("given.pth", False), id="first"),
        pytest.param({"TORCHELASTIC_RESTART_COUNT": "0"}, ("given.pth", False), id="first of a launcher"),
        pytest.param({"TORCHELASTIC_RESTART_COUNT": "1"}, ("given.pth", False), id="again, nothing saved"),
    ],
)
def test_where_to_begin(tmp_path: Path, environ: dict[str, str], expected: tuple[str, bool]) -> None:
    assert restarts.resume_choice(tmp_path, "given.pth", auto_resume=False, environ=environ) == expected


@pytest.mark.parametrize("name", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_restart_begins_at_its_own_checkpoint(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "find_resume_point", lambda folder: (folder / "iter_5.pth", []))
    choice = restarts.resume_choice(tmp_path, "given.pth", auto_resume=False, environ={name: "1"})
    assert choice == (None, True)


def test_nohup_stays_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert "SIGHUP" not in str(launching._stopping()["signals_to_handle"])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert "SIGUSR1" in str(launching._stopping()["signals_to_handle"])
