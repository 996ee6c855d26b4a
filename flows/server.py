"""The Prefect server that `flows.serve` starts: its address, who may reach it, its start and its end."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from urllib.parse import urlsplit

from flows import place
from flows.place import CLIENT_LOGIN, SERVER_LOGIN
from tasks.launch import end_with_parent
from tasks.masking import address

START_PATIENCE = 120.0  # seconds until the server must answer
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check_host(host: str) -> None:
    """Refuse to open the server to other machines without a login.

    Raises:
        SystemExit: the address is no loopback address, and no login is set.
    """
    if is_loopback(host) or os.environ.get(SERVER_LOGIN):
        return
    raise SystemExit(
        f"--host {host}: found an address that other machines reach and no login; whoever reaches a Prefect "
        f"server can run code here. Set one before: export {SERVER_LOGIN}='name:password', and "
        f"{CLIENT_LOGIN} to the same in every shell and on every machine that uses the server. Or leave "
        "--host out: the server then listens on 127.0.0.1 only."
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host in LOOPBACK


def reached_at(host: str) -> str:
    """The address by which this machine reaches a server that is bound to ``host``."""
    with suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            return place.HOST
    return f"[{host}]" if ":" in host else host


def choose_url(port: int | None, host: str = place.HOST) -> str:
    """The address of the API: PREFECT_API_URL, or a port of this machine that nothing listens on.

    Raises:
        SystemExit: the port that was asked for is taken.
    """
    given = os.environ.get("PREFECT_API_URL")
    if given:
        if port is not None:
            print(
                f"--port {port} is ignored: PREFECT_API_URL is set ({address(given)})",
                file=sys.stderr,
                flush=True,
            )
        return given.rstrip("/")
    wanted = port or int(os.environ.get("PREFECT_SERVER_API_PORT") or place.PORT)
    url = f"http://{reached_at(host)}:{wanted}/api"
    if not place.answers(url):
        return url
    use_it = f"PREFECT_API_URL={url} uses the Prefect server there, if it is one"
    if port is not None:
        raise SystemExit(
            f"port {port} is taken by another process. Leave --port out to get a free one; {use_it}."
        )
    with socket.socket() as free:
        free.bind((place.HOST, 0))  # any free number will do
        chosen = free.getsockname()[1]
    print(f"port {wanted} is taken by another process: using port {chosen}. {use_it}.", flush=True)
    return f"http://{reached_at(host)}:{chosen}/api"


def start_server(url: str, host: str = place.HOST) -> subprocess.Popen[bytes] | None:
    """Start the server as a child and wait until it answers; None when PREFECT_API_URL names one that does.

    Raises:
        SystemExit: it ended or does not answer, or is to be on another machine.
    """
    if os.environ.get("PREFECT_API_URL") and place.healthy(url):
        return None
    parts = urlsplit(url)
    if os.environ.get("PREFECT_API_URL") and not is_loopback(parts.hostname or ""):
        raise SystemExit(
            f"PREFECT_API_URL: no Prefect server answers at {address(url)}, and one can be started only "
            "on this machine. Correct the address, start the server there, or unset PREFECT_API_URL."
        )
    port = str(parts.port or 80)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", port]
    env = {**os.environ, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    env.setdefault("PREFECT_UI_API_URL", "/api")  # the pages ask the server they come from, whatever its port
    env.pop("PREFECT_API_URL", None)
    with place.SERVER_LOG.open("ab") as log:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env,
            start_new_session=True, preexec_fn=end_with_parent(),
        )  # fmt: skip
    end = time.monotonic() + START_PATIENCE
    while not place.healthy(url):
        if server.poll() is not None:
            raise SystemExit(
                f"the Prefect server at {url} ended with code {server.returncode}; see {place.SERVER_LOG}. "
                "If the port is taken, choose another one: --port 4201"
            )
        if time.monotonic() > end:
            stop_server(server)
            raise SystemExit(
                f"the Prefect server at {url} is silent for {START_PATIENCE:.0f} s; see {place.SERVER_LOG}"
            )
        time.sleep(0.2)
    return server


def stop_server(server: subprocess.Popen[bytes] | None) -> None:
    """End the server that we started, with everything it started."""
    if server is None:
        return
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
