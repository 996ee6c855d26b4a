"""Telling MLflow about a training while it runs, from threads that the training never waits for."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tasks import tracked_run
from tasks.steps import Log
from tasks.tracked_run import Facts, RunFile
from tasks.tracking import monitor, store
from tasks.tracking.session import Session, sending

EVERY = 5.0  # seconds between two readings of the training log
LONGEST_PAUSE = 30.0  # seconds between two tries while MLflow does not answer
PATIENCE = 60.0  # seconds that the end of a step may wait for the last batch
PATIENCE_WHEN_STOPPED = 2.0  # when it was cancelled: whoever cancels kills what is still there after seconds
NICENESS = 5  # of the threads beside a training


@contextmanager
def track(work_dir: Path, log: Log) -> Iterator[None]:
    """Follow a training while the block runs, which never notices what happens to MLflow.

    What the run is comes from the files that ``tracked_run.begin`` left in ``work_dir``; how it ends is noted
    there first, so that what could not be sent can be sent later.
    """
    follower = _Follower(work_dir, log) if store.enabled() else None
    status, patience = "KILLED", PATIENCE_WHEN_STOPPED
    try:
        yield
        status, patience = "FINISHED", PATIENCE
    except Exception:
        status, patience = "FAILED", PATIENCE
        raise
    finally:
        with suppress(OSError):  # a full disk is the training's to report
            tracked_run.ended(work_dir, status)
        if follower is not None:
            follower.end(patience)


class _Follower:
    """The two threads beside a training: one measures the machine into a file, one sends what files hold."""

    def __init__(self, work_dir: Path, log: Log) -> None:
        self._work_dir, self._log = work_dir, log
        self._ended = threading.Event()
        thread(self._measure)
        self._sender = thread(self._follow)

    def end(self, patience: float) -> None:
        """Send what is left, and wait for that no longer than ``patience`` seconds."""
        self._ended.set()
        self._sender.join(patience)
        if self._sender.is_alive():
            self._log(f"MLflow: no answer for {patience:.0f} s, going on without. {later(self._work_dir)}")

    def _follow(self) -> None:
        _give_way()
        with sending(self._work_dir, lambda text: None):
            self._send_until_ended()

    def _measure(self) -> None:
        _give_way()
        monitor.measure(self._work_dir, self._ended)

    def _send_until_ended(self) -> None:
        facts = Facts.load(self._work_dir)
        if facts is None:
            self._log(f"MLflow: {self._work_dir} does not say what is trained; nothing is sent.")
            return
        session: Session | None = None
        silent, pause = False, 0.1
        while True:
            last = self._ended.wait(pause)
            try:
                session = session or self._opened(facts)
                send(session, facts)
                silent, pause = False, EVERY
            except Exception as error:
                if not silent:
                    self._log(f"MLflow: {store.described(error)}. Training goes on. {later(self._work_dir)}")
                silent, pause = True, min(2 * max(pause, EVERY), LONGEST_PAUSE)
            if last:
                return

    def _opened(self, facts: Facts) -> Session:
        session = Session(self._work_dir)
        session.open(facts)
        session.client.update_run(session.file.run_id, status="RUNNING")
        session.file.sent.pop("status", None)
        self._log(f"MLflow: run {session.file.run_id}, shown at {session.file.url}")
        return session


def send(session: Session, facts: Facts) -> None:
    """Send everything that a training's folder holds by now, its end too."""
    session.send_training(facts)
    if session.file.status:
        session.end(session.file.status, session.file.ended)
    result = session.file.checkpoint
    if result:
        tracked_run.tell_copy(session.folder, Path(result["path"]).parent)


def later(folder: Path) -> str:
    """How to send what is left."""
    return f"What is left can be sent by: python -m tasks tracking sync {folder}"


def guarded(work: Callable[[], object], folder: Path, log: Log, patience: float = PATIENCE) -> None:
    """Run ``work`` in a thread for a while; a failure is only logged."""

    def run() -> None:
        try:
            work()
        except Exception as error:
            log(f"MLflow: {store.described(error)}. The result is complete without it. {later(folder)}")

    worker = thread(run)
    worker.join(patience)
    if worker.is_alive():
        log(f"MLflow: no answer for {patience:.0f} s, going on without. {later(folder)}")


def _give_way() -> None:
    """Leave the cores to the training: Linux has niceness by thread."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def thread(work: Callable[[], object]) -> threading.Thread:
    """Start ``work`` in a thread that does not keep the process alive."""
    made = threading.Thread(target=work, daemon=True, name="mlflow")
    made.start()
    return made


def run_id(folder: Path) -> str:
    """The MLflow run that belongs to a folder, as far as it is known; empty otherwise."""
    return RunFile.load(folder).run_id
