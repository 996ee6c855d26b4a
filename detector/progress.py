"""Progress of long work: a bar with the remaining time on a terminal, one line per interval elsewhere.

Nothing here decides where output goes: bars and lines go to standard error, so that a command's standard
output stays its result.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

T = TypeVar("T")


class Progress:
    """Progress of one piece of work; a context manager, or call ``close`` at the end.

    Args:
        total: units of work, or None when unknown.
        what: what is being done, e.g. 'evaluate val'.
        every_s: seconds between lines when the output is no terminal.
        unit: 'it' for items, 'B' for bytes.
        stream: where to write, standard error by default.
        enabled: False for silence, e.g. on other ranks than 0.
    """

    def __init__(
        self,
        total: int | None,
        what: str,
        *,
        every_s: float = 10.0,
        unit: str = "it",
        stream: TextIO | None = None,
        enabled: bool = True,
    ) -> None:
        self.total = total
        self.what = what
        self.done = 0
        self._every_s = every_s
        self._unit = unit
        self._stream = stream if stream is not None else sys.stderr
        self._enabled = enabled
        self._start = self._last_line = time.monotonic()
        self._first = 0
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._wants_bar = enabled and self._stream.isatty()

    def __enter__(self) -> Progress:
        """The progress itself; a bar is shown from now on."""
        if self._wants_bar:
            self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar; say the last line when the work is whole."""
        self.close(finished=kind is None)

    def __call__(self, done: int, total: int | None = None) -> None:
        """Callback form: ``done`` of ``total`` units are finished."""
        self.total = total if total is not None else self.total
        self.advance(done - self.done)

    def start_at(self, done: int) -> None:
        """Work that was done before, which the speed must not count."""
        self.done = self._first = done
        self._show()

    def advance(self, units: int = 1) -> None:
        """``units`` more are done."""
        self.done += units
        self._show()

    def describe(self, what: str) -> None:
        """Change the text beside the bar."""
        self.what = what
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=what)

    def note(self, line: str) -> None:
        """A line of its own, above the bar if there is one."""
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            self._write(line)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Hide the bar while another one is shown."""
        if self._bar is None:
            yield
            return
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def close(self, *, finished: bool = True) -> None:
        """End the bar, or write the last line."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self._enabled and finished and self.total != 0 and self._every_s != float("inf"):
            self._write(f"{self.what}: done, {self._count()} in {_clock(time.monotonic() - self._start)}")
        self._enabled = False

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the speed so far; None while unknown."""
        worked = self.done - self._first
        if self.total is None or worked <= 0:
            return None
        return (self.total - self.done) * (time.monotonic() - self._start) / worked

    def _show(self) -> None:
        if not self._enabled:
            return
        if self._wants_bar and self._bar is None:
            self._open_bar()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, total=self.total)
            return
        now = time.monotonic()
        if now - self._last_line >= self._every_s:
            self._last_line = now
            left = "" if self.eta_s is None else f", {_clock(self.eta_s)} left"
            self._write(f"{self.what}: {self._count()}, {_clock(now - self._start)} so far{left}")

    def _count(self) -> str:
        scale, unit = (1e6, " MB") if self._unit == "B" else (1, "")
        digits = ".1f" if unit else ".0f"
        done = f"{self.done / scale:{digits}}"
        if not self.total:
            return f"{done}{unit}"
        return f"{done}/{self.total / scale:{digits}}{unit} ({100 * self.done / self.total:.0f} %)"

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    def _open_bar(self) -> None:
        from rich import progress as rich_progress
        from rich.console import Console

        amount: rich_progress.ProgressColumn = (
            rich_progress.DownloadColumn() if self._unit == "B" else rich_progress.MofNCompleteColumn()
        )
        self._bar = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            amount,
            rich_progress.TimeElapsedColumn(),
            rich_progress.TextColumn("left"),
            rich_progress.TimeRemainingColumn(),
            console=Console(file=self._stream),
            # rich would send what others print to standard output here, and a pipe would miss it
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task(self.what, total=self.total)
        self._bar.start()


def track(
    iterable: Iterable[T],
    total: int | None = None,
    what: str = "",
    every_s: float = 10.0,
    *,
    stream: TextIO | None = None,
    enabled: bool = True,
) -> Iterator[T]:
    """Yield the items of ``iterable`` while showing how far it is.

    Args:
        iterable: the work.
        total: its length; taken from ``iterable`` when it has one.
        what: what is being done.
        every_s: seconds between lines when the output is no terminal.
        stream: where to write, standard error by default.
        enabled: False for silence.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with Progress(total, what, every_s=every_s, stream=stream, enabled=enabled) as progress:
        for item in iterable:
            yield item
            progress.advance()


def _clock(seconds: float) -> str:
    """h:mm:ss."""
    return str(timedelta(seconds=int(seconds)))
