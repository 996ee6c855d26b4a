"""Where this folder's Prefect server is and whether it serves. Light to import: Prefect loads this.

A running `python -m flows.serve` holds the lock ``.prefect/serve.lock`` from before its server starts until
it ends, in whatever way; only the holder writes ``.prefect/serve.json``, and without a holder that file says
nothing.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tasks.leases import try_lock

HOME = Path(".prefect")  # as in pyproject.toml, [tool.prefect] home
STATE, LOCK = HOME / "serve.json", HOME / "serve.lock"
SERVE_LOG, SERVER_LOG = HOME / "serve.log", HOME / "server.log"
HOST, PORT = "127.0.0.1", 4200
SERVER_LOGIN, CLIENT_LOGIN = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"  # 'name:password'
DEPLOYMENTS = ("prepare-data", "train", "evaluate", "train-eval", "test-dev", "sweep", "zoo-eval")


@dataclass(frozen=True)
class Serving:
    """What ``.prefect/serve.json`` says about a running `python -m flows.serve`.

    Attributes:
        url: of the API.
        pid: of the serving process.
        ready: whether the deployments are registered and polled.
    """

    url: str
    pid: int
    ready: bool = False

    def save(self) -> None:
        """Write the file whole."""
        HOME.mkdir(exist_ok=True)
        temporary = STATE.with_name(f".{STATE.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(STATE)


@contextmanager
def lock(patience: float = 1.0) -> Iterator[bool]:
    """Hold this folder's lock; gives False when another `flows.serve` holds it.

    Args:
        patience: seconds to try for, because ``held`` takes the lock for a moment.
    """
    HOME.mkdir(exist_ok=True)
    end = time.monotonic() + patience
    with LOCK.open("a") as file:
        while not (got := try_lock(file, fcntl.LOCK_EX)) and time.monotonic() < end:
            time.sleep(0.05)
        if got:
            STATE.unlink(missing_ok=True)  # left by one that was killed
        yield got


def held() -> bool:
    """Whether a `flows.serve` of this folder is alive: starting, serving or stopping."""
    try:
        with LOCK.open() as file:
            return not try_lock(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def recorded() -> Serving | None:
    """What the living `flows.serve` of this folder says about itself; None without one."""
    with suppress(OSError, ValueError, TypeError):
        if held():
            return Serving(**json.loads(STATE.read_text()))
    return None


def live() -> Serving | None:
    """As ``recorded``, but None as well when its server does not answer."""
    found = recorded()
    if found is not None and answers(found.url):
        return found
    return None


def answers(url: str) -> bool:
    """Whether anything listens at the address of ``url``."""
    with suppress(OSError, ValueError):
        address = urlsplit(url)
        socket.create_connection((address.hostname or "", address.port or 80), timeout=0.5).close()
        return True
    return False


def headers() -> dict[str, str]:
    """What every question to the API carries: the login from PREFECT_API_AUTH_STRING or PREFECT_API_KEY."""
    login, key = os.environ.get(CLIENT_LOGIN), os.environ.get("PREFECT_API_KEY")
    if login:
        return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
    return {"Authorization": f"Bearer {key}"} if key else {}


def get(url: str, timeout: float = 2.0) -> Any:
    """The JSON at ``url``, or None when there is no such answer."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers()), timeout=timeout
        ) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def post(url: str, body: Mapping[str, Any], timeout: float = 10.0) -> tuple[int, Any]:
    """The status and JSON answer of a POST."""
    content = {"Content-Type": "application/json", **headers()}
    request = urllib.request.Request(url, json.dumps(body).encode(), content)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def healthy(url: str) -> bool:
    """Whether a Prefect server answers at ``url``."""
    return get(f"{url}/health") is True


def serves(url: str, names: Sequence[str] = DEPLOYMENTS) -> bool:
    """Whether all of the deployments are registered and being polled; ``train`` means ``train/train``."""
    full = (name if "/" in name else f"{name}/{name}" for name in names)
    found = (get(f"{url}/deployments/name/{name}") for name in full)
    return all(answer and not answer.get("paused") and answer.get("status") == "READY" for answer in found)


def stop(patience: float = 60.0) -> str:
    """End this folder's `flows.serve` with its server; says what happened."""
    if not held():
        return "nothing to stop: no flows.serve runs in this folder"
    found = recorded()
    if found is None:
        return "flows.serve is just starting or stopping in this folder: try again in a few seconds"
    os.kill(found.pid, signal.SIGTERM)
    end = time.monotonic() + patience
    while (running := held()) and time.monotonic() < end:
        time.sleep(0.2)
    return f"flows.serve (process {found.pid}) {'did not end yet' if running else 'stopped'}"
