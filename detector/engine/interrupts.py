"""Stop requests: SIGTERM, SIGINT, SIGUSR1 and SIGHUP become a flag that the loops read at step boundaries."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
#: exit code of a run that stopped with a checkpoint and wants to be started again (sysexits.h: EX_TEMPFAIL)
REQUEUE = 75
#: environment of a process whose launcher repeats a signal that the process got from elsewhere too
LAUNCHED = ("TORCHELASTIC_RUN_ID", "SLURM_STEP_ID")


class Interrupted(Exception):  # noqa: N818 - not an error
    """A run stopped on request, after saving what it had.

    Attributes:
        signum: the signal that asked.
        checkpoint: the file to resume from, or None when there was nothing to save.
    """

    def __init__(self, signum: int, checkpoint: Path | None = None) -> None:
        self.signum = signum
        self.checkpoint = checkpoint
        where = (
            f"; saved {checkpoint}, continue with --resume-from {checkpoint} or --auto-resume"
            if checkpoint
            else ""
        )
        super().__init__(f"stopped by {signal.Signals(signum).name}{where}")

    @property
    def exit_code(self) -> int:
        """What the shell is told, see ``exit_code``."""
        return exit_code(self.signum)


def exit_code(signum: int) -> int:
    """The shell's 128 + signal number (143 for SIGTERM, 130 for SIGINT); 75 for SIGUSR1, to be run again."""
    return REQUEUE if signum == signal.SIGUSR1 else 128 + signum


class StopRequest:
    """Context in which a stop signal sets a flag; Ctrl-C after it acts at once, as without this context.

    Other signals after the first are the same wish: shells, containers and launchers send on what the process
    got from its group already. Below torchrun and srun, which kill by themselves what does not end, Ctrl-C is
    no exception. SIGHUP stays ignored below nohup. Outside
    the main thread python allows no handlers; then the context does nothing.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            below_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            numbers = [number for number in SIGNALS if not (number == signal.SIGHUP and below_nohup)]
            self._previous = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the previous handlers back; a launched process that stops is on its way out and stays on it.

        Its launcher ends those who are still there when the first one has gone, and that would be the run's
        exit code. Python itself keeps ignoring what is ignored until it has ended; handlers it drops before.
        """
        if launched() and (self.requested or isinstance(value, Interrupted)):
            for number in self._previous:
                signal.signal(number, signal.SIG_IGN)
        else:
            self._restore()

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return self.signum is not None

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum = signum
        if not launched() and signal.SIGINT in self._previous:
            signal.signal(signal.SIGINT, self._previous.pop(signal.SIGINT))

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def launched() -> bool:
    """Whether a launcher started this process, which ends it if it has to."""
    return any(name in os.environ for name in LAUNCHED)
