"""`python -m flows.serve`: start the Prefect server if none runs and serve the deployments until Ctrl-C.

`python -m flows.serve --stop` ends one that runs in the background, with its server. The server is bound to
127.0.0.1 and belongs to this folder: another folder's server is not used, because the runners of two folders
would take each other's runs. With PREFECT_API_URL the server there is used. Runs whose process was killed
are found at the start and while it serves, and go on from their last checkpoint (see flows.reconcile).
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

from flows import place
from flows.place import CLIENT_LOGIN, SERVER_LOGIN
from flows.reconcile import Reconciler
from flows.reconcile import watch as keep_true
from flows.server import check_host, choose_url, is_loopback, start_server, stop_server
from tasks.masking import address


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
    """The deployments, each named like its flow."""
    from prefect.types.entrypoint import EntrypointType

    from flows.evaluate import evaluate
    from flows.prepare_data import prepare_data
    from flows.sweep import sweep
    from flows.test_dev import format_test_dev
    from flows.train import train
    from flows.train_eval import train_eval
    from flows.zoo_eval import evaluate_zoo

    module = EntrypointType.MODULE_PATH
    flows = (prepare_data, train, evaluate, train_eval, format_test_dev, sweep, evaluate_zoo)
    return [
        flow.to_deployment(name=flow.name, description=flow.description, entrypoint_type=module)
        for flow in flows
    ]


def serve(port: int | None, limit: int, host: str = place.HOST, *, resume: bool = True) -> int:
    """Serve until a signal comes, unless this folder is served already.

    Args:
        port: of the server; None chooses.
        limit: flow runs at a time.
        host: address that the server listens on.
        resume: schedule runs again whose process was killed.
    """
    with place.lock() as ours:
        if ours:
            return _serve(port, limit, host, resume)
    running = place.recorded()
    where = f"process {running.pid}, {address(running.url)}" if running else "just starting or stopping"
    print(f"flows.serve already runs in this folder ({where})")
    return 0


def _serve(port: int | None, limit: int, host: str, resume: bool) -> int:
    signal.signal(signal.SIGTERM, _interrupted)
    server, stopped = None, threading.Event()
    try:
        url = choose_url(port, host)
        place.Serving(url=url, pid=os.getpid()).save()
        print(f"Prefect server at {address(url)} ...", flush=True)
        server = start_server(url, host)
        _surroundings(url)
        if server is not None:
            threading.Thread(target=watch, args=(server,), daemon=True).start()
        reconciler = Reconciler(url, own=server is not None and is_loopback(host), resume=resume)
        keep_shown_true(reconciler, stopped)
        threading.Thread(target=announce, args=(url,), daemon=True).start()
        # Prefect's handler of SIGTERM calls a coroutine without awaiting it, and then exits as it should
        warnings.filterwarnings("ignore", r"coroutine 'Runner\.\w+' was never awaited", RuntimeWarning)
        from prefect import serve as serve_deployments

        serve_deployments(*deployments(), limit=limit, print_starting_message=False)
    except KeyboardInterrupt:
        print("stopping", flush=True)
    finally:
        stopped.set()
        place.STATE.unlink(missing_ok=True)
        stop_server(server)
    return 0


def _surroundings(url: str) -> None:
    """Settings for Prefect in this process and in those of the runs; before prefect is imported."""
    os.environ["PREFECT_API_URL"] = url
    os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "2")
    os.environ.setdefault("DO_NOT_TRACK", "1")


def keep_shown_true(reconciler: Reconciler, stopped: threading.Event) -> None:
    """Set right what a killed `flows.serve` left in the database, now and while we serve."""

    def say(text: str) -> None:
        print(text, flush=True)

    try:
        for line in reconciler.once():
            say(line)
    except OSError as error:
        say(f"the runs of before were not compared with their processes: {error}")
    threading.Thread(target=keep_true, args=(reconciler, say, stopped), daemon=True).start()


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
    parser.add_argument(
        "--host",
        default=place.HOST,
        help=f"address that the server listens on (default: {place.HOST}); another one than this machine's "
        f"own needs a login in {SERVER_LOGIN}",
    )
    parser.add_argument(
        "--no-resume",
        action="store_true",
        help="do not schedule runs again whose process was killed; they are shown as Crashed all the same",
    )
    parser.add_argument("--stop", action="store_true", help="end the flows.serve that runs in this folder")
    arguments = parser.parse_args(argv)
    if arguments.stop:
        print(place.stop())
        return 0
    if login := os.environ.get(SERVER_LOGIN):
        os.environ.setdefault(CLIENT_LOGIN, login)
    check_host(arguments.host)
    return serve(arguments.port, arguments.limit, arguments.host, resume=not arguments.no_resume)


if __name__ == "__main__":
    sys.exit(main())
