"""Progress of downloading and extracting, one bar at a time."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from detector.progress import Progress


class Bars:
    """Opens a bar for each piece of work when it begins and closes the one before; a context manager."""

    def __init__(self) -> None:
        self._open: Progress | None = None

    def __enter__(self) -> Bars:
        """The bars themselves."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the last bar; it says that it is done only when no error came."""
        self._end(finished=kind is None)

    def __call__(self, what: str) -> Callable[[int, int], None]:
        """Callback of (done, total) for work of that name, e.g. 'draw sample' or 'train2017.zip'."""
        self._end(finished=True)
        bar = self._open = Progress(None, what, unit="it" if what.startswith("draw") else "B").__enter__()
        begun = False

        def show(done: int, total: int) -> None:
            nonlocal begun
            if not begun:
                # What an earlier try left took no time now: the remaining time must not count on it.
                begun = True
                bar.total = total
                bar.start_at(done)
            bar(done, total)

        return show

    def _end(self, *, finished: bool) -> None:
        if self._open is not None:
            self._open.close(finished=finished)
            self._open = None
