"""Stop requests: SIGTERM and SIGINT become a flag that the loops read at step boundaries."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


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
        """The shell's convention: 128 + signal number (143 for SIGTERM, 130 for SIGINT)."""
        return 128 + self.signum


class StopRequest:
    """Context in which SIGTERM and SIGINT set a flag; a second one acts at once, as without this context.

    Outside the main thread python allows no handlers; then the context does nothing.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the previous handlers back."""
        self._restore()

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return self.signum is not None

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
