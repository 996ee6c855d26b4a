"""`python -m flows.serve`: start the Prefect server if none runs and serve the deployments until Ctrl-C.

`python -m flows.serve --stop` ends one that runs in the background, with its server. The server is bound to
127.0.0.1 and belongs to this folder: another folder's server is not used, because the runners of two folders
would take each other's runs. With PREFECT_API_URL the server there is used.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from flows import place
from tasks.launch import end_with_parent

START_PATIENCE = 120.0  # seconds until the server must answer
LOOPBACK = ("127.0.0.1", "localhost")


def choose_url(port: int | None) -> str:
    """The address of the API: PREFECT_API_URL, or a port of this machine that nothing listens on.

    Raises:
        SystemExit: the port that was asked for is taken.
    """
    given = os.environ.get("PREFECT_API_URL")
    if given:
        if port is not None:
            print(f"--port {port} is ignored: PREFECT_API_URL is set ({given})", file=sys.stderr, flush=True)
        return given.rstrip("/")
    wanted = port or int(os.environ.get("PREFECT_SERVER_API_PORT") or place.PORT)
    url = f"http://{place.HOST}:{wanted}/api"
    if not place.answers(url):
        return url
    use_it = f"PREFECT_API_URL={url} uses the Prefect server there, if it is one"
    if port is not None:
        raise SystemExit(
            f"port {port} is taken by another process. Leave --port out to get a free one; {use_it}."
        )
    with socket.socket() as free:
        free.bind((place.HOST, 0))
        chosen = free.getsockname()[1]
    print(f"port {wanted} is taken by another process: using port {chosen}. {use_it}.", flush=True)
    return f"http://{place.HOST}:{chosen}/api"


def start_server(url: str) -> subprocess.Popen[bytes] | None:
    """Start the server as a child and wait until it answers; None when PREFECT_API_URL names one that does.

    Raises:
        SystemExit: it ended or does not answer, or is to be on another machine.
    """
    if os.environ.get("PREFECT_API_URL") and place.healthy(url):
        return None
    address = urlsplit(url)
    if address.hostname not in LOOPBACK:
        raise SystemExit(
            f"PREFECT_API_URL: no Prefect server answers at {url}, and one can be started only on this "
            "machine. Correct the address, start the server there, or unset PREFECT_API_URL."
        )
    port = str(address.port or 80)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", place.HOST, "--port", port]
    env = {**os.environ, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
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


def watch(server: subprocess.Popen[bytes]) -> None:
    """End everything when the server ends by itself: without it Prefect's runner neither works nor stops."""
    server.wait()
    if place.STATE.exists():
        print(
            f"the Prefect server ended with exit code {server.returncode}; see {place.SERVER_LOG}",
            file=sys.stderr,
            flush=True,
        )
        place.STATE.unlink(missing_ok=True)
        _end_children()
        os._exit(1)


def _end_children() -> None:
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.terminate()
    psutil.wait_procs(children, timeout=30)


def announce(url: str) -> None:
    """Say what to type as soon as the deployments can be run."""
    while not place.serves(url):
        time.sleep(0.3)
    place.Serving(url=url, pid=os.getpid(), ready=True).save()
    ui = url.removesuffix("/api")
    print(
        f"\nServing {', '.join(place.DEPLOYMENTS)}. In another shell, in this folder:\n"
        "  prefect deployment run train-eval --param config=mask_rcnn [--watch]\n"
        "  prefect deployment run prepare-data --param dataset=sample\n"
        f"Runs and deployments: {ui}/deployments\n"
        "Metrics, parameters, pictures: type `mlflow ui` in another shell, then open\n"
        "  http://127.0.0.1:5000 (Model training)\n"
        "Stop with Ctrl-C here, or with `python -m flows.serve --stop` anywhere in this folder.\n",
        flush=True,
    )


def deployments() -> list[Any]:
    """The five deployments, each named like its flow."""
    from prefect.types.entrypoint import EntrypointType

    from flows.evaluate import evaluate
    from flows.prepare_data import prepare_data
    from flows.test_dev import format_test_dev
    from flows.train import train
    from flows.train_eval import train_eval

    module = EntrypointType.MODULE_PATH
    flows = (prepare_data, train, evaluate, train_eval, format_test_dev)
    return [
        flow.to_deployment(name=flow.name, description=flow.description, entrypoint_type=module)
        for flow in flows
    ]


def serve(port: int | None, limit: int) -> int:
    """Serve until a signal comes, unless this folder is served already."""
    with place.lock() as ours:
        if ours:
            return _serve(port, limit)
    running = place.recorded()
    where = f"process {running.pid}, {running.url}" if running else "just starting or stopping"
    print(f"flows.serve already runs in this folder ({where})")
    return 0


def _serve(port: int | None, limit: int) -> int:
    signal.signal(signal.SIGTERM, _interrupted)
    server = None
    try:
        url = choose_url(port)
        place.Serving(url=url, pid=os.getpid()).save()
        print(f"Prefect server at {url} ...", flush=True)
        server = start_server(url)
        os.environ["PREFECT_API_URL"] = url  # before prefect is imported
        os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "2")
        os.environ.setdefault("DO_NOT_TRACK", "1")
        if server is not None:
            threading.Thread(target=watch, args=(server,), daemon=True).start()
        threading.Thread(target=announce, args=(url,), daemon=True).start()
        # Prefect's handler of SIGTERM calls a coroutine without awaiting it, and then exits as it should
        warnings.filterwarnings("ignore", r"coroutine 'Runner\.\w+' was never awaited", RuntimeWarning)
        from prefect import serve as serve_deployments

        serve_deployments(*deployments(), limit=limit, print_starting_message=False)
    except KeyboardInterrupt:
        print("stopping", flush=True)
    finally:
        place.STATE.unlink(missing_ok=True)
        stop_server(server)
    return 0


def _interrupted(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Serve, or stop serving."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--port", type=int, help="of the server (default: PREFECT_SERVER_API_PORT, otherwise 4200)"
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=1,
        help="flow runs at a time (default: 1, a training takes the whole machine)",
    )
    parser.add_argument("--stop", action="store_true", help="end the flows.serve that runs in this folder")
    arguments = parser.parse_args(argv)
    if arguments.stop:
        print(place.stop())
        return 0
    return serve(arguments.port, arguments.limit)


if __name__ == "__main__":
    sys.exit(main())
