"""An MLflow server of its own for the outage script, and a door before it that can be slow or broken."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tasks.launch import end_with_parent

SLOW_S = 10.0
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "date", "server"}


class Server:
    """`mlflow server` with its store in a folder; it can be killed and started again."""

    def __init__(self, store: Path, port: int) -> None:
        self.store, self.port = store, port
        self.uri = f"http://127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.store.mkdir(parents=True, exist_ok=True)
        words = ["--backend-store-uri", f"sqlite:///{self.store}/mlflow.db", "--workers", "1"]
        words += ["--artifacts-destination", str(self.store / "artifacts"), "--serve-artifacts"]
        words += ["--host", "127.0.0.1", "--port", str(self.port)]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.store.parent / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *words],
                stdout=log, stderr=log, start_new_session=True, env={**os.environ, **quiet},
                preexec_fn=end_with_parent(),
            )  # fmt: skip
        end = time.monotonic() + 180
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=5)
                return
            time.sleep(0.5)
        raise TimeoutError(f"no MLflow server came up at {self.uri}; see {self.store.parent}/server.log")

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def points(self) -> list[tuple[str, str, float, int, int]]:
        """(run, key, value, timestamp, step) of every metric in the store, read past the server."""
        path = self.store / "mlflow.db"
        if not path.is_file():
            return []
        query = "select run_uuid, key, value, timestamp, step from metrics"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=20)) as database:
            return list(database.execute(query))


class Door:
    """An HTTP proxy; ``mode`` is 'open', 'slow' (SLOW_S more for every call) or 'broken' (answers 500)."""

    def __init__(self, port: int, target: int, *, slow_s: float = SLOW_S) -> None:
        self.mode, self.target, self.slow_s, self.calls = "open", target, slow_s, 0
        self.uri = f"http://127.0.0.1:{port}"
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(OSError):  # the client has left
                    super().handle_one_request()

            def _pass(self) -> None:
                door.calls += 1
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if door.mode == "slow":
                    time.sleep(door.slow_s)
                status, headers, data = (
                    (500, {}, b"broken") if door.mode == "broken" else door.ask(self, body)
                )
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def ask(self, request: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """The server's answer to a request."""
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        connection = http.client.HTTPConnection("127.0.0.1", self.target, timeout=60)
        try:
            connection.request(request.command, request.path, body, headers)
            answer = connection.getresponse()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP}
            return answer.status, kept, answer.read()
        except OSError as error:
            return 502, {}, str(error).encode()
        finally:
            connection.close()

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()
