"""Run work in processes of our own: every line passed on, and nobody left behind however it ends.

The child leads its own session and process group. It gets SIGTERM when the process that started it dies, by
whatever signal; on cancel or interrupt it gets SIGTERM, time to write a checkpoint, and then SIGKILL with all
its descendants. When it ends by itself, what it left behind is killed too: descendants are known by a mark in
their environment, wherever they moved.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

from detector.errors import DetectorError
from tasks.masking import masked
from tasks.steps import Log

if TYPE_CHECKING:
    import psutil

GRACE = 30.0  # seconds between SIGTERM and SIGKILL; torchrun gives its workers as long
REMEMBERED = 15  # last lines kept for the error message
PR_SET_PDEATHSIG = 1
MARKS = "DETECTOR_LAUNCHED_BY"  # environment of our processes: one mark for every launch above them
FOLLOW = 2.0  # seconds that descendants have to end after the process they belong to


class ProcessError(DetectorError):
    """A process that we started failed.

    Attributes:
        returncode: its exit code, negative for a signal.
    """

    def __init__(self, message: str, returncode: int) -> None:
        super().__init__(message)
        self.returncode = returncode

    @property
    def by_signal(self) -> bool:
        """Whether the process was killed rather than failing by itself; such a run is worth resuming."""
        return self.returncode < 0 or self.returncode > 128

    @property
    def exit_code(self) -> int:
        """The exit code that passes this on to our own parent, as a shell would."""
        return 128 - self.returncode if self.returncode < 0 else self.returncode


def command(arguments: Sequence[str], *, processes: int = 1) -> list[str]:
    """The command line that runs ``detector <arguments>`` in one process, or in several through torchrun."""
    if processes <= 1:
        return [sys.executable, "-u", "-m", "detector", *arguments]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
    ]
    return [*torchrun, "-m", "detector", *arguments]


def run(
    argv: Sequence[str], *, what: str, log: Log, env: Mapping[str, str] | None = None, grace: float = GRACE
) -> None:
    """Run a command to its end, passing every line of its output to ``log``.

    Args:
        argv: the command.
        what: its name in messages.
        log: gets each line, secrets masked.
        env: added to this process's environment.
        grace: seconds between SIGTERM and SIGKILL when it has to be stopped.

    Raises:
        ProcessError: the command ended with another code than 0.
    """
    mark, lines, held = uuid.uuid4().hex, SimpleQueue[str](), HeldSignals()
    try:
        process = _start(argv, mark, env or {})
    except BaseException:
        held.release()
        raise
    reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
    reader.start()
    last: deque[str] = deque(maxlen=REMEMBERED)

    def say(text: str) -> None:
        last.append(shown := masked(text))
        log(shown)

    try:
        held.release()
        while process.poll() is None:
            _pass_on(lines, say, wait=0.1)
        end_family(process.pid, mark)
        reader.join(FOLLOW)
        _pass_on(lines, say)
    except BaseException:  # cancel, Ctrl-C, SIGTERM, a time limit: the group goes with us
        stop(process, mark, lines, log=say, grace=grace)
        raise
    if process.returncode:
        said = "\n  ".join(last) or "(nothing)"
        code = process.returncode
        raise ProcessError(f"{what} ended with exit code {code}. It last said:\n  {said}", code)


class HeldSignals:
    """Holds back what asks this process to stop, from its making until ``release``, which delivers it.

    A handler that raises while a process is being started may do so in a callback around the fork, where
    Python drops the exception and the wish is lost, or before anybody could stop the new process. Does
    nothing outside the main thread: no handler runs there.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._came: list[int] = []
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if callable(signal.getsignal(number)):
                    self._before[number] = signal.signal(number, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._came.append(signum)

    def release(self) -> None:
        """Put the handlers back and call them for what came meanwhile."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        for number in self._came[:1]:
            signal.raise_signal(number)


def _start(argv: Sequence[str], mark: str, env: Mapping[str, str]) -> subprocess.Popen[str]:
    marks = f"{os.environ.get(MARKS, '')} {mark}".strip()
    return subprocess.Popen(
        list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", bufsize=1, start_new_session=True, preexec_fn=end_with_parent(),
        env={**os.environ, **env, MARKS: marks},
    )  # fmt: skip


def _read(pipe: IO[str] | None, lines: SimpleQueue[str]) -> None:
    """Empty the pipe, which may stay open for longer than the process lives."""
    with suppress(ValueError, OSError):
        for line in pipe or ():
            if text := line.rstrip():
                lines.put(text)


def _pass_on(lines: SimpleQueue[str], log: Log, *, wait: float = 0.0) -> None:
    """Log the lines that are there, waiting a moment for the first one."""
    with suppress(Empty):
        log(lines.get(timeout=wait) if wait else lines.get_nowait())
        while True:
            log(lines.get_nowait())


def stop(
    process: subprocess.Popen[str], mark: str, lines: SimpleQueue[str], *, log: Log, grace: float
) -> None:
    """End a process and its descendants: SIGTERM, then SIGKILL; a second interrupt cuts the wait."""
    try:
        if process.poll() is None:
            process.terminate()
            log(f"stopping process {process.pid}: SIGTERM, then SIGKILL after {grace:.0f} s")
            end = time.monotonic() + grace
            while process.poll() is None and time.monotonic() < end:
                _pass_on(lines, log, wait=0.05)
    finally:
        end_family(process.pid, mark)
        process.wait()
    _pass_on(lines, log)
    log(f"process {process.pid} stopped with exit code {process.returncode}")


def end_family(pid: int, mark: str) -> None:
    """Kill the process group ``pid`` and every process that carries ``mark``; a moment to end is theirs."""
    end = time.monotonic() + FOLLOW
    while (family := _marked(mark)) and time.monotonic() < end:
        time.sleep(0.05)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    for process in family:
        _kill(process)


def _marked(mark: str) -> list[psutil.Process]:
    """Living processes started below ours: torchrun's workers lead sessions of their own."""
    import psutil

    found = psutil.process_iter(["environ"])
    return [process for process in found if mark in (process.info["environ"] or {}).get(MARKS, "")]


def _kill(process: psutil.Process) -> None:
    import psutil

    with suppress(psutil.NoSuchProcess):
        process.kill()


def end_with_parent() -> Callable[[], None] | None:
    """A function for the child between fork and exec: ask for SIGTERM when the parent dies (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork, where it is safe to load a library

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask
