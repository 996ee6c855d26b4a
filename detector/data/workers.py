"""The loader's worker processes: how one starts, how its parent knows, and how it ends."""

from __future__ import annotations

import ctypes
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

import cv2
import numpy as np
import torch

PR_SET_PDEATHSIG = 1
# what a terminal, a scheduler or a lost connection sends to the whole group; the main process answers
GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
PATIENCE = 60.0  # seconds in which the workers of a loader must have started; milliseconds are usual
STARTS = 3  # how often they are started before that is an error


class Arrivals:
    """Which of a loader's workers have started, told through shared memory.

    A forked worker inherits every lock in the state it has at that moment, those of threads that do not exist
    in it included. One that meets such a lock stands still for ever, and with it the run.
    """

    def __init__(self, context: BaseContext, count: int) -> None:
        self._here = context.RawArray("b", count)

    def tell(self, worker_id: int) -> None:
        """Say, in the worker, that it has started."""
        self._here[worker_id] = 1

    def clear(self) -> None:
        """Expect all of them again."""
        for worker_id in range(len(self._here)):
            self._here[worker_id] = 0

    def missing(self, workers: Sequence[BaseProcess]) -> list[int]:
        """Numbers of the living workers that have not started after ``PATIENCE``.

        One that died is none of them: the loader says that better.
        """
        end = time.monotonic() + PATIENCE
        while late := [i for i, worker in enumerate(workers) if not self._here[i] and worker.is_alive()]:
            if time.monotonic() > end:
                return late
            time.sleep(0.002)
        return []


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold back the signals of the group from this thread, and from the workers started meanwhile.

    A worker inherits the mask and takes it off once it ignores them: none dies of a signal while it starts.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(worker_id: int, *, arrivals: Arrivals, die_with_parent: bool) -> None:
    """Set up a worker process and tell its parent that it can work.

    Signals that a terminal or a scheduler sends to the whole process group are the main process's to answer:
    it saves a checkpoint with the help of its workers and then ends them. Should it die, the kernel kills the
    workers.
    """
    for number in GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)
    cv2.setNumThreads(0)  # not 1: OpenCV would then join the threads that its parent had, for ever
    torch.set_num_threads(1)
    if die_with_parent and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _warm_up()
    arrivals.tell(worker_id)


def _warm_up() -> None:
    """Go once through what reads samples, so that an inherited lock is met here."""
    image = cv2.resize(np.zeros((16, 16, 3), np.uint8), (8, 8))
    torch.from_numpy(image).float().mean()


def kill(workers: Sequence[BaseProcess]) -> None:
    """End the workers that still live, without waiting: torch's handler raises as soon as one is gone."""
    for worker in workers:
        if worker.is_alive():
            worker.kill()
