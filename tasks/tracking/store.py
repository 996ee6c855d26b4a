"""Where MLflow keeps what it is told, how it is reached, and what may be said about that."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from tasks.masking import MASK, address, masked

SWITCH = "DETECTOR_TRACKING"  # 'off': MLflow is told nothing; `python -m tasks tracking sync` tells it later
SETTINGS = {  # MLflow's own give up after minutes; our loop asks again, so a call may fail soon
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "60",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
SECRET_VALUE = re.compile(
    r"(?i)\b(token|password|passwd|secret|api[_-]?key|access[_-]?key)\b(=|: ?)([^\s&,'\"]+)"
)
LONGEST = 300  # characters of an error of MLflow's, which may hold a whole page


def store_uri() -> str:
    """``MLFLOW_TRACKING_URI`` if it is set, otherwise the database file in the project's folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def is_local() -> bool:
    """Whether the store is the project's own database file, with the artifacts beside it."""
    return not os.environ.get("MLFLOW_TRACKING_URI")


def enabled() -> bool:
    """Whether MLflow is told anything while things run."""
    return os.environ.get(SWITCH, "").lower() not in ("off", "0", "false", "no")


def shown_uri() -> str:
    """The store's address without user, password and query: what may be logged and kept in files."""
    return address(store_uri())


def described(error: BaseException) -> str:
    """An error in one line without secrets: MLflow's messages repeat the address that was called."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    text = SECRET_VALUE.sub(rf"\1\2{MASK}", masked(text))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def client() -> Any:
    """A client of the store, whose calls fail in seconds rather than minutes.

    Takes seconds, which importing mlflow needs: only for who has something to say.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow.store.db.utils"):  # they announce every table of a new database
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store_uri())
