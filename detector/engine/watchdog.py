"""The processes of a run watch each other, so that none waits for one that died without a word.

A process that is killed on the same machine closes its connections, and gloo notices. A machine that
vanishes, a cut network or a process stuck in the kernel closes nothing: the others would wait for half an
hour. So a thread of every process counts in the store that torch's launcher keeps, and reads the counts
of the others; a count that stands still for long ends the process, after saying whose it is.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

import psutil
from torch._C._distributed_c10d import HashStore, PrefixStore, TCPStore
from torch.distributed.elastic.multiprocessing.errors import ErrorHandler

from detector.errors import ConfigError, DetectorError

#: seconds without a sign of life after which a process counts as dead; 0 in this variable watches nobody
LIMIT_VARIABLE = "DETECTOR_HEARTBEAT_S"
LIMIT = 45.0
#: where the store keeps what processes say to each other
KEYS = "detector"
#: counts per limit
BEATS = 15
#: seconds for the first sign of life of a process that was started; imports from a slow disk take long
FIRST_SIGN = 300.0
#: a process that ended well adds this to its count
FINISHED = -(1 << 40)
#: seconds in which what another process reported is waited for; twice as long for one's own words about it
OWN_WORDS = 5.0
#: seconds that an orphan has to save a checkpoint
LAST_WORDS = 25.0
DEAD_STATES = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


class LostError(DetectorError):
    """Another process gave no sign of life, or said that it failed."""


class Store(Protocol):
    """What is needed of a store of torch."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to a number, 0 at first; returns the sum."""

    def set(self, key: str, value: str, /) -> None:
        """Keep a text."""

    def get(self, key: str, /) -> bytes:
        """A kept text."""

    def check(self, keys: list[str], /) -> bool:
        """Whether all texts are kept."""


class Heartbeat:
    """Beats for this process and watches the others, in two threads.

    Args:
        store: shared by all processes.
        rank: number of this process.
        world_size: number of processes.
        where: address of the store, for messages.
        limit: seconds without a sign of life that mean death.
        on_lost: called once with a message.
    """

    def __init__(
        self,
        store: Store,
        *,
        rank: int,
        world_size: int,
        where: str,
        limit: float = LIMIT,
        on_lost: Callable[[str, str], None],
    ) -> None:
        self.store = store
        self.rank = rank
        self.where = where
        self.limit = limit
        self.on_lost = on_lost
        self.labels = {number: f"rank {number}" for number in range(world_size)}
        self._label = f"rank {rank}|{socket.gethostname()}|{os.getpid()}|{os.getppid()}"
        self._counts = dict.fromkeys(range(world_size), 0)
        self._moved = dict.fromkeys(range(world_size), time.monotonic())
        self._answered = self._looked = time.monotonic()
        self._failure: tuple[float, str] | None = None
        self._parent = os.getppid()
        self._orphan = False
        self._met = True
        self._stop = threading.Event()
        self._talking = threading.Lock()
        self._forking = False
        self._threads = [
            threading.Thread(target=target, name=f"heartbeat {target.__name__}", daemon=True)
            for target in (self._beat, self._watch)
        ]

    def start(self) -> Heartbeat:
        """Begin."""
        # a loader worker inherits every lock that another thread holds while it is forked, for ever
        os.register_at_fork(
            before=self._hush, after_in_parent=self._speak_again, after_in_child=self._speak_again
        )
        for thread in self._threads:
            thread.start()
        return self

    def close(self, failed: str | None = None) -> None:
        """Stop, and tell the others whether this process ended well."""
        self._stop.set()
        if self._orphan:  # the store has gone with the launcher
            return
        with contextlib.suppress(RuntimeError):  # the store may have gone before
            if failed is None:
                self.store.add(f"beat/{self.rank}", FINISHED)
            elif not self.store.check(["failed"]):
                self.store.set("failed", f"{describe(self._label)}: {failed}")

    def round(self) -> None:
        """One sign of life, and a look at those of the others."""
        if self.labels[self.rank] != self._label:
            self.store.set(f"label/{self.rank}", self._label)
            self.labels[self.rank] = self._label
        self.store.add(f"beat/{self.rank}", 1)
        counts = {number: self.store.add(f"beat/{number}", 0) for number in self._counts}
        for number, label in self.labels.items():
            if "|" not in label and self.store.check([f"label/{number}"]):
                self.labels[number] = self.store.get(f"label/{number}").decode()
        if self._failure is None and self.store.check(["failed"]):
            self._failure = (time.monotonic(), self.store.get("failed").decode())
        now = self._answered = time.monotonic()
        for number, count in counts.items():
            if count != self._counts[number]:
                self._counts[number], self._moved[number] = count, now

    def verdict(self, now: float) -> str | None:
        """What is wrong, if anything.

        Args:
            now: of the monotonic clock.
        """
        if now - self._looked > self.limit / 2:  # this process itself stood still: all clocks start anew
            self._answered = now
            self._moved = dict.fromkeys(self._moved, now)
        self._looked = now
        if self._failure is not None and now - self._failure[0] > 2 * OWN_WORDS:
            return f"{self._failure[1]}"
        if now - self._answered > self.limit:
            return (
                f"{describe(self.labels[0])}: its machine, where the processes meet ({self.where}), has not "
                f"answered for {now - self._answered:.0f} s"
            )
        if now - self._answered > 3 * self.limit / BEATS:  # without the store nothing is known of the others
            return None
        silent = [
            number
            for number, moved in self._moved.items()
            if number != self.rank and self._counts[number] >= 0 and now - moved > self._patience(number)
        ]
        silent = [number for number in silent if not self._lives_beside_us(number)]
        if not silent:
            return None
        names = ", ".join(describe(self.labels[number]) for number in silent)
        seconds = now - self._moved[silent[0]]
        return f"{names}: no sign of life for {seconds:.0f} s (killed, suspended or cut off)"

    def cause(self) -> str | None:
        """What another process said when it failed; waits a moment for it."""
        end = time.monotonic() + OWN_WORDS
        while self._failure is None and time.monotonic() < end and self._answered > end - 2 * OWN_WORDS:
            time.sleep(0.1)
            with self._talking, contextlib.suppress(RuntimeError):
                self.round()
        return self._failure[1] if self._failure is not None else None

    def met(self) -> None:
        """From now on all processes are known to be there."""
        self._moved = dict.fromkeys(self._moved, time.monotonic())
        self._met = True

    def _patience(self, number: int) -> float:
        """Seconds of silence that a process may keep."""
        waiting = not self._met and self._counts[number] == 0
        return max(self.limit, FIRST_SIGN) if waiting else self.limit

    def sibling(self, number: int) -> psutil.Process | None:
        """Another process if the same parent started it."""
        _, host, pid, parent = [*self.labels[number].split("|"), "", "", ""][:4]
        if host != socket.gethostname() or parent != str(self._parent):
            return None
        with contextlib.suppress(psutil.Error, ValueError):
            process = psutil.Process(int(pid))
            return process if process.ppid() == self._parent else None
        return None

    def _lives_beside_us(self, number: int) -> bool:
        """Whether the system says that a silent process runs: long work that lets no other thread in."""
        process = self.sibling(number)
        with contextlib.suppress(psutil.Error):
            return process is not None and process.status() not in DEAD_STATES
        return False

    def _beat(self) -> None:
        while True:
            with self._talking, contextlib.suppress(RuntimeError):  # the other thread measures the silence
                self.round()
            if self._stop.wait(self.limit / BEATS):
                return

    def _hush(self) -> None:
        """Let the other thread finish its talk with the store; a store without answer holds up no fork."""
        self._forking = self._talking.acquire(timeout=2.0)

    def _speak_again(self) -> None:
        if self._forking:
            self._forking = False
            self._talking.release()

    def _watch(self) -> None:
        while not self._stop.wait(min(1.0, self.limit / BEATS)):
            if "TORCHELASTIC_RUN_ID" in os.environ and os.getppid() != self._parent:
                self._stop_as_orphan()
            message = self.verdict(time.monotonic())
            if message is not None and not self._stop.is_set():
                for number in self._counts:
                    self._kill_suspended(number)
                self.on_lost(describe(self._label), message)
                return

    def _kill_suspended(self, number: int) -> None:
        """A suspended process cannot end on a request."""
        process = self.sibling(number) if number != self.rank else None
        with contextlib.suppress(psutil.Error):
            if process is not None and process.status() == psutil.STATUS_STOPPED:
                process.kill()

    def _stop_as_orphan(self) -> None:
        """The launcher is gone, and so nobody would end this process: stop, with a checkpoint if possible."""
        self._orphan = True
        sys.stderr.write(f"{describe(self._label)}: the launcher has gone; stopping\n")
        os.kill(os.getpid(), signal.SIGTERM)
        if not self._stop.wait(LAST_WORDS):
            end_now(describe(self._label), "the launcher has gone")


def describe(label: str) -> str:
    """A process in words, from what it left in the store."""
    name, *facts = label.split("|")
    return f"{name} (host {facts[0]}, pid {facts[1]})" if facts else name


def start(*, met: bool) -> Heartbeat:
    """Watch the processes that RANK and WORLD_SIZE speak of; their store answers at MASTER_ADDR:MASTER_PORT.

    Args:
        met: whether all of them are known to be there.

    Raises:
        ConfigError: the limit in the environment is not a number.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    limit = read_limit()
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store: Store
    if world_size == 1 or limit <= 0:
        store = HashStore()
    else:
        # a connection of its own: the group's one is busy while a collective waits
        store = PrefixStore(f"{KEYS}/{attempt}", connect(host, port, timedelta(seconds=limit)))
    heartbeat = Heartbeat(
        store, rank=rank, world_size=world_size, where=f"{host}:{port}", limit=limit or LIMIT, on_lost=end_now
    )
    heartbeat._met = met
    return heartbeat.start() if world_size > 1 and limit > 0 else heartbeat


def connect(host: str, port: int, timeout: timedelta) -> TCPStore:
    """A connection of one's own to a store."""
    return TCPStore(host, port, is_master=False, timeout=timeout)


def tell(host: str, port: int, attempt: int, message: str) -> None:
    """Tell the processes on other machines that one on this machine failed; no answer is no error."""
    with contextlib.suppress(RuntimeError):
        store = PrefixStore(f"{KEYS}/{attempt}", connect(host, port, timedelta(seconds=OWN_WORDS)))
        if not store.check(["failed"]):
            store.set("failed", message)


def read_limit() -> float:
    """Seconds of silence that mean death.

    Raises:
        ConfigError: not a number.
    """
    text = os.environ.get(LIMIT_VARIABLE, str(LIMIT))
    try:
        return float(text)
    except ValueError:
        raise ConfigError(
            f"{LIMIT_VARIABLE}: found {text!r}; expected seconds, or 0 to watch nobody."
        ) from None


def record(error: BaseException) -> None:
    """Leave an error for the launcher's report, if it gave a file for it."""
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return
    with contextlib.suppress(OSError):
        ErrorHandler().record_exception(error)


def end_now(who: str, message: str) -> None:
    """End this process and its loader workers, whatever its main thread waits for."""
    sys.stderr.write(f"detector: {message}; {who} ends.\n")
    sys.stderr.flush()
    record(LostError(message))
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(1)
