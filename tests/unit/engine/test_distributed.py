"""Joining a run: who started this process, its device, stop signals, and what a lost peer becomes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch._C._distributed_c10d import HashStore

from detector.engine import distributed, watchdog
from detector.engine.interrupts import REQUEUE, SIGNALS, Interrupted, StopRequest
from detector.engine.launchers import LAUNCHERS, choose_launcher, join_environment
from detector.errors import ConfigError, MachineError
from tests.e2e.runs_of_many import free_port

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2"}
SRUN = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment without any launcher, put back as it was."""
    before = dict(os.environ)
    for name in [*os.environ]:
        if name.startswith(("SLURM", "TORCHELASTIC", "OMPI", "MASTER", "GLOO")) or name in TORCHRUN:
            monkeypatch.delenv(name)
    yield monkeypatch
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize(
    ("given", "around", "expected"),
    [
        pytest.param(None, {}, "none", id="alone"),
        pytest.param(None, TORCHRUN, "pytorch", id="torchrun, forgotten"),
        pytest.param("none", TORCHRUN, "none", id="torchrun, refused"),
        pytest.param("slurm", SRUN, "slurm", id="srun"),
        pytest.param(None, {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, "none", id="batch script"),
        pytest.param(None, {**SRUN, **TORCHRUN}, "pytorch", id="torchrun below srun"),
    ],
)
def test_launcher_is_found(given: str | None, around: dict[str, str], expected: str) -> None:
    assert choose_launcher(given, around) == expected
    assert expected in LAUNCHERS


@pytest.mark.parametrize(("around", "named"), [(SRUN, "slurm"), ({"OMPI_COMM_WORLD_SIZE": "2"}, "mpi")])
def test_a_forgotten_launcher_is_an_error(around: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=f"--launcher {named} for one run of 2 processes"):
        choose_launcher(None, around)


def test_mpi_environment(environ: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "3", "SIZE": "4", "LOCAL_RANK": "1"}.items():
        environ.setenv(f"OMPI_COMM_WORLD_{name}", value)
    with pytest.raises(ConfigError, match="MASTER_ADDR"):
        join_environment("mpi")
    environ.setenv("MASTER_ADDR", "first")
    join_environment("mpi", 1234)
    found = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    assert found == {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_PORT": "1234"}


def test_an_incomplete_environment_is_an_error(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="lacks WORLD_SIZE, MASTER_ADDR, MASTER_PORT"):
        join_environment("pytorch")
    with pytest.raises(ConfigError, match="found 'lsf'"):
        join_environment("lsf")


def test_a_session_of_one_process_gives_and_ends_a_group(environ: pytest.MonkeyPatch) -> None:
    port = str(free_port())
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }.items():
        environ.setenv(name, value)
    with distributed.session("pytorch", "nccl", device="cpu"):
        assert distributed.active()
        assert torch.distributed.get_backend() == "gloo"
        assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
        assert distributed.broadcast_text("a") == "a"
    assert not distributed.active()
    with pytest.raises(KeyError), distributed.session("pytorch", device="cpu"):
        raise KeyError("x")
    assert not distributed.active()


def test_a_taken_port_is_an_error(environ: pytest.MonkeyPatch) -> None:
    import socket

    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = str(other.getsockname()[1])
        for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
            environ.setenv(name, value)
        environ.setenv("MASTER_PORT", port)
        with pytest.raises(MachineError, match=f"{port}: the port is taken"), distributed.session("pytorch"):
            pass


@pytest.mark.parametrize(
    ("launched", "again", "acts"),
    [(True, signal.SIGINT, False), (False, signal.SIGINT, True), (False, signal.SIGTERM, False)],
    ids=["launched", "Ctrl-C", "sent on by a shell"],
)
def test_a_second_signal_acts_at_once_only_from_a_terminal(
    environ: pytest.MonkeyPatch, launched: bool, again: signal.Signals, acts: bool
) -> None:
    if launched:
        environ.setenv("TORCHELASTIC_RUN_ID", "x")
    second: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = [signal.signal(number, lambda *_: second.append(1)) for number in numbers]
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), again)
            assert stop.signum == signal.SIGUSR1
        assert second == ([1] if acts else [])
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, REQUEUE)]
)
def test_exit_codes(number: int, code: int) -> None:
    assert Interrupted(number).exit_code == code


class Watched:
    """Two processes' heartbeats over one store."""

    def __init__(self, limit: float) -> None:
        self.lost: list[tuple[str, str]] = []
        store = HashStore()
        self.ranks = [
            watchdog.Heartbeat(
                store,
                rank=rank,
                world_size=2,
                where="here:1",
                limit=limit,
                on_lost=lambda who, message: self.lost.append((who, message)),
            )
            for rank in (0, 1)
        ]

    def pretend_other_machine(self) -> None:
        """Rank 1 beats from a host of its own."""
        self.ranks[1]._label = "rank 1|elsewhere|7|1"


def test_silence_is_reported_with_host_and_pid() -> None:
    watched = Watched(limit=10)
    watched.pretend_other_machine()
    for heartbeat in watched.ranks * 2:
        heartbeat.round()
    first = watched.ranks[0]
    now = time.monotonic()
    assert first.verdict(now) is None
    for later in (4, 8):
        first._looked = first._answered = now + later
        assert first.verdict(now + later) is None
    first._looked = first._answered = now + 11
    verdict = first.verdict(now + 11)
    assert verdict is not None
    assert verdict.startswith("rank 1 (host elsewhere, pid 7): no sign of life for 11 s")


def test_work_that_lets_no_thread_in_is_not_death_on_the_same_machine() -> None:
    watched = Watched(limit=10)  # both labels name this living process
    for heartbeat in watched.ranks * 2:
        heartbeat.round()
    first, now = watched.ranks[0], time.monotonic()
    first._looked = first._answered = now + 60
    assert first.verdict(now + 60) is None


def test_a_process_that_stood_still_itself_accuses_nobody() -> None:
    watched = Watched(limit=10)
    watched.pretend_other_machine()
    for heartbeat in watched.ranks * 2:
        heartbeat.round()
    assert watched.ranks[0].verdict(time.monotonic() + 100) is None


def test_a_process_that_has_not_come_yet_gets_more_time() -> None:
    first = Watched(limit=10).ranks[0]
    first._met = False
    first.round()
    now = time.monotonic()
    for later, silent in ((60, False), (310, True)):
        first._looked = first._answered = now + later
        assert (first.verdict(now + later) is not None) is silent


def test_an_ending_process_of_a_launcher_ignores_stop_signals(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("SLURM_STEP_ID", "0")
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with pytest.raises(Interrupted), StopRequest():
            raise Interrupted(signal.SIGUSR1)
        assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_IGN}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_store_without_answer_names_its_machine() -> None:
    first, second = Watched(limit=10).ranks
    first.round()
    second.round()
    second.round()
    now = time.monotonic()
    for later in (4, 8, 12):
        verdict = second.verdict(now + later)
    assert verdict is not None
    assert verdict.startswith(f"rank 0 (host {os.uname().nodename}, pid {os.getpid()}): its machine")
    assert "here:1" in verdict


def test_who_ends_well_is_not_missed_and_who_fails_is_quoted() -> None:
    watched = Watched(limit=10)
    watched.pretend_other_machine()
    first, second = watched.ranks
    for heartbeat in watched.ranks * 2:
        heartbeat.round()
    second.close()
    first.round()
    now = time.monotonic()
    first._looked = first._answered = now + 60
    assert first.verdict(now + 60) is None
    second.close(failed="ConfigError: x")
    first.round()
    assert first.cause() == "rank 1 (host elsewhere, pid 7): ConfigError: x"
    first._looked = now + 70
    assert first.verdict(now + 70) == "rank 1 (host elsewhere, pid 7): ConfigError: x"


def test_threads_report_once_and_stop() -> None:
    watched = Watched(limit=0.6)
    watched.pretend_other_machine()
    first, second = (heartbeat.start() for heartbeat in watched.ranks)
    time.sleep(1.0)
    assert watched.lost == []
    second._stop.set()
    end = time.monotonic() + 10
    while not watched.lost and time.monotonic() < end:
        time.sleep(0.05)
    assert [message[:30] for _, message in watched.lost] == ["rank 1 (host elsewhere, pid 7)"]
    first.close()
    for thread in threading.enumerate():
        if thread.name.startswith("heartbeat"):
            thread.join(5)
            assert not thread.is_alive()


def test_a_fork_waits_for_the_end_of_a_round() -> None:
    watched = Watched(limit=0.6)
    first = watched.ranks[0].start()
    for _ in range(20):
        child = os.fork()
        if child == 0:
            free = first._talking.acquire(blocking=False)
            os._exit(0 if free else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert first._talking.acquire(timeout=5)
    first._talking.release()
    first.close()


def test_the_limit_must_be_a_number(environ: pytest.MonkeyPatch) -> None:
    environ.setenv(watchdog.LIMIT_VARIABLE, "soon")
    with pytest.raises(ConfigError, match="found 'soon'"):
        watchdog.read_limit()
