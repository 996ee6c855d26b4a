"""Everything this project tells MLflow; the only home of mlflow. Nothing here can delay or fail a training.

MLflow is a reader of the run folder: what there is to tell lies in files there, written first, and what was
sent is remembered beside them. So what could not be sent now is sent by the next call or by `python -m tasks
tracking sync`, once. The store is ``mlflow.db`` in the project with the artifacts in ``mlruns`` beside it,
without server and network, unless MLFLOW_TRACKING_URI names another. Importing this package does not import
mlflow.
"""

from tasks.tracking.additions import Addition, add, attempt_of
from tasks.tracking.following import track
from tasks.tracking.models import MeasuredModel, resolve
from tasks.tracking.session import Session
from tasks.tracking.store import enabled, is_local, store_uri
from tasks.tracking.sweeps import close_sweep, open_sweep
from tasks.tracking.syncing import Synced, sync

__all__ = [
    "Addition",
    "MeasuredModel",
    "Session",
    "Synced",
    "add",
    "attempt_of",
    "close_sweep",
    "enabled",
    "is_local",
    "open_sweep",
    "resolve",
    "store_uri",
    "sync",
    "track",
]
