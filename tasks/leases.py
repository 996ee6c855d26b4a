"""Who runs a flow run: a file per run under ``.prefect/runs``, locked by the process for as long as it lives.

The kernel drops the lock when the process ends, in whatever way. A process that ends by itself removes the
file as well: a file without a lock is of one that was killed, or whose machine went down.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

FOLDER = Path(".prefect", "runs")  # in the project's folder, beside Prefect's database
SUFFIX = ".lease"
RUN_VARIABLE = (
    "PREFECT__FLOW_RUN_ID"  # Prefect gives it to the process of a deployment's run, and so to all below
)

_held: dict[str, IO[str]] = {}
_taking = threading.Lock()


def hold(run: str) -> bool:
    """Take the lease of a flow run for the rest of this process's life; False if another process has it.

    Args:
        run: the flow run's id; nothing is done for an empty one.
    """
    if not run:
        return True
    with _taking:  # two threads that run steps of one flow are not two processes
        return run in _held or _take(run)


def _take(run: str) -> bool:
    path = _path(run).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    if not try_lock(file, fcntl.LOCK_EX):
        file.close()
        return False
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid(), "since": round(time.time(), 3)}) + "\n")
    file.flush()
    _held[run] = file
    atexit.register(_give_back, path, os.getpid())
    return True


def _give_back(path: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked child
        path.unlink(missing_ok=True)


def held(run: str) -> bool:
    """Whether a living process has the lease."""
    try:
        with _path(run).open() as file:
            return not try_lock(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def left() -> list[str]:
    """The flow runs whose process did not come to its end."""
    names = sorted(path.name.removesuffix(SUFFIX) for path in FOLDER.glob(f"*{SUFFIX}"))
    return [name for name in names if not held(name)]


def drop(run: str) -> None:
    """Remove what a killed process left."""
    if not held(run):
        _path(run).unlink(missing_ok=True)


def alive(run: str) -> bool:
    """Whether anything of a flow run lives on this machine: its process, or a step's that saves and goes."""
    return held(run) or any(_is_of(run, pid) for pid in Path("/proc").glob("[0-9]*"))


def _is_of(run: str, process: Path) -> bool:
    with suppress(OSError):
        return f"{RUN_VARIABLE}={run}".encode() in (process / "environ").read_bytes().split(b"\0")
    return False


def _path(run: str) -> Path:
    return FOLDER / f"{run}{SUFFIX}"


def try_lock(file: IO[str], kind: int) -> bool:
    """Lock an open file without waiting; False when another has it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
