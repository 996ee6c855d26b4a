from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tasks import launch

PARENT = """
import sys
from tasks import launch
child = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(60)"
launch.run([sys.executable, "-c", child], what="toy", log=lambda text: print(text, flush=True))
"""

TORCHRUN = ["-m", "torch.distributed.run", "--standalone"]


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def gone(pid: int, within: float = 5.0) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False


def test_lines_are_passed_on_as_they_come() -> None:
    said: list[str] = []
    launch.run(python("import sys; print('one'); print('two', file=sys.stderr)"), what="toy", log=said.append)
    assert sorted(said) == ["one", "two"]


def test_failure_carries_the_code_and_the_last_lines() -> None:
    with pytest.raises(launch.ProcessError, match=r"toy ended with exit code 3.*\n  CUDA went away") as error:
        launch.run(python("print('CUDA went away'); raise SystemExit(3)"), what="toy", log=lambda text: None)
    assert error.value.returncode == 3
    assert not error.value.by_signal


def test_killed_process_counts_as_by_signal() -> None:
    with pytest.raises(launch.ProcessError) as error:
        launch.run(python("import os; os.kill(os.getpid(), 9)"), what="toy", log=lambda text: None)
    assert error.value.by_signal
    assert error.value.exit_code == 137


def test_interrupt_ends_the_process_with_sigterm_first() -> None:
    said: list[str] = []
    child = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('checkpoint saved', flush=True), sys.exit(143)))\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )

    def log(text: str) -> None:
        said.append(text)
        if text == "ready":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch.run(python(child), what="toy", log=log)
    assert "checkpoint saved" in said
    assert said[-1].endswith("exit code 143")


def test_stubborn_family_is_killed_after_the_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "FOLLOW", 0.05)
    child = (
        "import signal, subprocess, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import signal, time; signal.signal(15, signal.SIG_IGN);"
        ' print("deaf", flush=True); time.sleep(60)\'], start_new_session=True)\n'
        "print('child', p.pid, flush=True)\nprint('go', flush=True)\ntime.sleep(60)"
    )
    said: list[str] = []

    def log(text: str) -> None:
        said.append(text)
        if text in ("deaf", "go") and "deaf" in said and "go" in said:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch.run(python(child), what="toy", log=log, grace=0.1)
    grandchild = int(next(line for line in said if line.startswith("child")).split()[1])
    assert gone(grandchild)


def test_what_a_killed_process_leaves_behind_is_killed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "FOLLOW", 0.1)
    child = (
        "import os, subprocess, sys\nsleeper = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        "print('child', subprocess.Popen(sleeper, start_new_session=True).pid, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    said: list[str] = []
    started = time.monotonic()
    with pytest.raises(launch.ProcessError, match="exit code -9"):
        launch.run(python(child), what="toy", log=said.append)
    assert time.monotonic() - started < 10
    assert gone(int(said[0].split()[1]))


def test_process_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    watchdog = threading.Timer(20, parent.kill)
    watchdog.start()
    lines = iter(parent.stdout)
    pid = int(next(line for line in lines if line.startswith("pid")).split()[1])
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    watchdog.cancel()
    parent.stdout.close()
    assert gone(pid)


@pytest.mark.parametrize(
    ("processes", "expected"),
    [
        (1, ["-u", "-m", "detector", "train", "x.py"]),
        (2, [*TORCHRUN, "--nproc-per-node=2", "-m", "detector", "train", "x.py"]),
    ],
)
def test_command(processes: int, expected: list[str]) -> None:
    assert launch.command(["train", "x.py"], processes=processes) == [sys.executable, *expected]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_while_a_process_starts_is_not_lost(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python drops what a handler raises in the callbacks around a fork."""
    started, said, start = list[int](), list[str](), launch._start

    def starts(*words: object) -> subprocess.Popen[str]:
        os.kill(os.getpid(), number)
        process = start(*words)  # type: ignore[arg-type]
        started.append(process.pid)
        return process

    def stop(signum: int, frame: object) -> None:
        raise SystemExit(128 + signum)

    monkeypatch.setattr(launch, "_start", starts)
    before = signal.signal(number, stop)
    try:
        with pytest.raises(SystemExit) as error:
            launch.run(python("import time; time.sleep(60)"), what="toy", log=said.append)
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)
    assert error.value.code == 128 + number
    assert gone(started[0])
    assert said[-1].endswith("exit code -15")


def test_signals_are_as_before_when_nothing_could_be_started() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(FileNotFoundError):
        launch.run(["/no/such/program"], what="toy", log=lambda text: None)
    assert signal.getsignal(signal.SIGINT) is before
