"""A stand-in for an MLflow server: the calls that trainings make, kept in memory, and faults on demand."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, dict[str, Any]]


class StandIn:
    """Faults: 'down' (no answer), 'broken' (500), 'lost' (done, but the answer is lost), 'slow'."""

    def __init__(self, artifacts: Path, *, slow_s: float = 1.0) -> None:
        self.fault, self.slow_s, self.calls = "", slow_s, 0
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.points: dict[str, set[tuple[Any, ...]]] = {}
        self._artifacts, self._lock = artifacts, threading.Lock()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                stand_in.calls += 1
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = stand_in.fault
                if fault == "slow":
                    time.sleep(stand_in.slow_s)
                if fault == "down":
                    return
                status, answer = (500, {}) if fault == "broken" else stand_in.answer(self.path, body)
                if fault == "lost":
                    return
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _serve

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: bytes) -> Answer:
        parts = urlsplit(path)
        call = parts.path.partition("/mlflow/")[2].replace("/", "_").replace("-", "_")
        given = json.loads(body) if body else {key: found[0] for key, found in parse_qs(parts.query).items()}
        with self._lock:
            return getattr(self, f"_{call}")(given)

    def _experiments_get_by_name(self, given: dict[str, Any]) -> Answer:
        name = given["experiment_name"]
        if name not in self.experiments:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": name}
        return 200, {"experiment": {"experiment_id": self.experiments[name], "name": name}}

    def _experiments_create(self, given: dict[str, Any]) -> Answer:
        self.experiments[given["name"]] = str(len(self.experiments) + 1)
        return 200, {"experiment_id": self.experiments[given["name"]]}

    def _runs_search(self, given: dict[str, Any]) -> Answer:
        wanted = given["filter"].split("'")[1]
        return 200, {"runs": [run for run in self.runs.values() if wanted in str(run["data"]["tags"])]}

    def _runs_create(self, given: dict[str, Any]) -> Answer:
        name = f"{len(self.runs):032x}"
        info = {
            "run_id": name, "run_uuid": name, "experiment_id": given["experiment_id"], "status": "RUNNING",
            "lifecycle_stage": "active", "start_time": 1, "artifact_uri": str(self._artifacts / name),
        }  # fmt: skip
        self.runs[name] = {"info": info, "data": {"tags": given["tags"], "params": [], "metrics": []}}
        self.points[name] = set()
        return 200, {"run": self.runs[name]}

    def _runs_get(self, given: dict[str, Any]) -> Answer:
        run = self.runs.get(given["run_id"])
        return (200, {"run": run}) if run else (404, {"error_code": "RESOURCE_DOES_NOT_EXIST"})

    def _runs_update(self, given: dict[str, Any]) -> Answer:
        self.runs[given["run_id"]]["info"].update(status=given.get("status"), end_time=given.get("end_time"))
        return 200, {"run_info": self.runs[given["run_id"]]["info"]}

    def _runs_log_batch(self, given: dict[str, Any]) -> Answer:
        for one in given.get("metrics", ()):  # MLflow's primary key
            point = (one["key"], one.get("step", 0), one["timestamp"], one["value"])
            self.points[given["run_id"]].add(point)
        return 200, {}

    def _runs_log_inputs(self, given: dict[str, Any]) -> Answer:
        return 200, {}
