"""What a run shows on its page in the Prefect UI: a bar while it trains, and a report at its end.

Nothing here can delay or fail a step: what is shown is best effort, sent by threads of its own.
"""

from __future__ import annotations

import contextvars
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.logging import get_logger

from tasks import report
from tasks.masking import masked
from tasks.request import Request

Rows = Sequence[Mapping[str, Any]]

PATIENCE = 15.0  # seconds; a server that is gone must not hold up a finished run
EVERY = 2.0  # seconds between two updates of a bar
LINES_AT_ONCE, LINES_PER_S = 300, 1.0  # each line is a record of Prefect's database
TRAIN_LINE = re.compile(r"Epoch \[(\d+)\]\[(\d+)/(\d+)\]\t(.*)")
VAL_LINE = re.compile(r"Epoch\(val\) \[\d+\]\[\d+\]\t(.*)")
METRIC = re.compile(r"\b(\w*(?:mAP|AP|PQ|AR@\d+)): ([\d.]+)")


@dataclass
class Course:
    """How far a training is, by the lines of its log.

    Attributes:
        epochs: of the whole training; 0 when it counts iterations.
        percent: done so far.
        epoch: the present one, from 1.
        text: in words.
    """

    epochs: int
    percent: float = 0.0
    text: str = ""
    measured: str = ""

    def read(self, line: str) -> bool:
        """Take in a line; whether it says something new."""
        if found := VAL_LINE.match(line):
            first = METRIC.search(found[1])
            self.measured = f", {first[1]} {first[2]} at the last evaluation" if first else ""
            return bool(first)
        found = TRAIN_LINE.match(line)
        if found is None:
            return False
        epoch, iteration, total = (int(found[group]) for group in (1, 2, 3))
        done, whole = iteration, total
        where = f"iteration {iteration} of {total}"
        if self.epochs:
            done, whole = (epoch - 1) * total + iteration, self.epochs * total
            where = f"iteration {done} of {whole}, epoch {epoch} of {self.epochs}"
        self.percent = min(100.0, 100 * done / max(whole, 1))
        eta, loss = (re.search(rf"\b{name}: ([^,\s]+)", found[4]) for name in ("eta", "loss"))
        self.text = where + (f", {eta[1]} left" if eta else "") + (f", loss {loss[1]}" if loss else "")
        return True

    @property
    def words(self) -> str:
        """What stands beside the bar."""
        return f"{self.text}{self.measured}"


class Bar:
    """A progress artifact that follows the lines of a training; only the latest value is ever sent.

    Args:
        key: of the artifact.
        epochs: see ``Course``.
    """

    def __init__(self, key: str, epochs: int) -> None:
        self.course = Course(epochs)
        self._key = key
        self._news, self._ended = threading.Event(), threading.Event()
        self._artifact: UUID | None = None
        run = contextvars.copy_context().run  # the artifact belongs to the task that runs here
        self._thread = threading.Thread(target=run, args=(self._follow,), daemon=True)

    def line(self, text: str) -> None:
        """Take in a line of the log; returns at once."""
        if self.course.read(text):
            if not self._thread.is_alive() and not self._ended.is_set():
                self._thread.start()
            self._news.set()

    def close(self, *, done: bool) -> None:
        """Send the last value; waits for that a moment at most, and not at all when the step was cut short.

        Args:
            done: the step came to its end.
        """
        if done and self.course.text:
            self.course.percent = 100.0
        self._ended.set()
        self._news.set()
        if done and self._thread.is_alive():
            self._thread.join(EVERY)

    def _follow(self) -> None:
        while not self._ended.is_set():
            self._news.wait()
            self._news.clear()
            self._send()
            self._ended.wait(EVERY)
        self._send()

    def _send(self) -> None:
        percent, words = round(self.course.percent, 1), self.course.words
        try:
            if self._artifact is None:
                made = create_progress_artifact(percent, key=self._key, description=words)
                self._artifact = cast(UUID, made)  # a coroutine only where an event loop runs
            else:
                update_progress_artifact(self._artifact, progress=percent, description=words)
        except Exception as error:
            get_logger("progress").debug("the bar is not shown: %s", masked(str(error)))


def bar(request: Request) -> Bar:
    """The bar of a training."""
    runner = request.loaded.data.get("runner") or {}
    epochs = runner.get("max_epochs") or request.loaded.data.get("total_epochs") or 0
    name = re.sub(r"[^a-z0-9]+", "-", f"{request.name}-seed{request.seed}".lower()).strip("-")
    return Bar(f"progress-{name}", 0 if "Iter" in str(runner.get("type", "")) else int(epochs))


class Sparing:
    """Passes lines on until there are too many: Prefect keeps every one, a warning per image would bury it.

    Args:
        log: gets the lines.
        at_once: lines in a row.
        per_s: lines per second in the long run.
        clock: tells the seconds.
    """

    def __init__(
        self,
        log: Callable[[str], None],
        at_once: int = LINES_AT_ONCE,
        per_s: float = LINES_PER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log, self._per_s, self._clock = log, per_s, clock
        self._most = self._left = float(at_once)
        self._at, self._omitted = clock(), 0

    def __call__(self, text: str) -> None:
        """Pass the line on, or count it."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            self._omitted += 1
            return
        self.say_omitted()
        self._left -= 1
        self._log(text)

    def say_omitted(self) -> None:
        """Say how many lines are missing here."""
        if self._omitted:
            self._log(f"({self._omitted} lines are left out here; the .log file in the run's folder has all)")
            self._omitted = 0


def publish(key: str, request: Request, done: Sequence[Mapping[str, Any]]) -> None:
    """Show the report of a run, and what was measured as a table ``<key>-metrics``."""

    def page() -> tuple[str, Rows]:
        metrics: dict[str, float] = {}
        for step in done:
            metrics.update((step["value"] or {}).get("metrics", {}))
        return report.markdown(request, done, metrics), report.rows(metrics)

    show(key, page, "What was run, and its result", f"{key}-metrics", "Metrics")


def compare(key: str, text: str, rows: Rows, what: str) -> None:
    """Show a comparison of several runs, and its rows as a table ``<key>-table``; ``what`` is it in words."""
    show(key, lambda: (text, rows), f"{what}, and how it came about", f"{key}-table", what)


def show(key: str, page: Callable[[], tuple[str, Rows]], what: str, table: str, of: str) -> None:
    """Show a page with the running flow; a server that does not answer costs seconds and nothing else.

    Args:
        key: the page's artifact is ``<key>-report``.
        page: gives its Markdown, and the rows of a table, all with the same names; none for no table.
        what: the page in words.
        table: key of the table's artifact.
        of: the table in words.
    """

    def work() -> None:
        try:
            text, rows = page()
            create_markdown_artifact(masked(text), key=f"{key}-report", description=what)
            if rows:
                create_table_artifact([dict(row) for row in rows], key=table, description=of)
        except Exception as error:
            said = masked(f"{type(error).__name__}: {error}")
            get_logger("report").warning("the report is not shown: %s", said)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
    thread.start()
    thread.join(PATIENCE)
