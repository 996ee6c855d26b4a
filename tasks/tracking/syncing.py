"""Telling MLflow later what it could not be told while things ran."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detector.errors import ConfigError
from tasks import tracked_run
from tasks.request import RUNS_ROOT
from tasks.steps import Log
from tasks.tracked_run import FACTS_FILE, Facts, RunFile
from tasks.tracking import additions, following, store
from tasks.tracking.session import Session, sending


@dataclass(frozen=True)
class Synced:
    """What became of one folder: 'sent', 'busy' (its training tells it itself) or 'failed'."""

    folder: Path
    state: str
    why: str = ""


def sync(folders: Sequence[Path], log: Log) -> list[Synced]:
    """Send what the trainings and evaluations below some folders have noted and MLflow does not have.

    Sending again is harmless: what was sent is remembered, and a point that comes twice counts once.

    Args:
        folders: runs, or folders above them; none stands for all runs of this project.
        log: gets a line per folder.

    Raises:
        ConfigError: a folder is not there, or no run is below the folders.
    """
    tops = list(folders) or [RUNS_ROOT]
    missing = [path for path in tops if not path.is_dir()]
    if missing:
        raise ConfigError(
            f"{missing[0]}: found no such folder; expected a run's or one above. Correct the path."
        )
    trainings = _holding(tops, FACTS_FILE)
    added = _holding(tops, additions.FILE)
    if not trainings and not added:
        raise ConfigError(
            f"{', '.join(map(str, tops))}: found no {FACTS_FILE} below; expected the folder of a training, "
            "such as runs/<config>/seed0. Train first, or name another folder."
        )
    return [
        *(_synced(folder, _training, log) for folder in trainings),
        *(_synced(folder, additions.deliver, log) for folder in added),
    ]


def _holding(tops: Sequence[Path], name: str) -> list[Path]:
    """The folders below ``tops``, themselves included, that hold a file of this name."""
    return sorted({path.parent for top in tops for path in top.rglob(name)})


def _synced(folder: Path, work: Callable[[Path, Log], bool], log: Log) -> Synced:
    try:
        sent = work(folder, log)
        result = Synced(folder, "sent" if sent else "failed")
    except BlockingIOError:
        result = Synced(folder, "busy", "its training is running and tells MLflow itself")
    except Exception as error:
        result = Synced(folder, "failed", store.described(error))
    log(f"{folder}: {result.state}{f': {result.why}' if result.why else ''}")
    return result


def _training(work_dir: Path, log: Log) -> bool:
    facts = Facts.load(work_dir)
    if facts is None:
        log(f"{work_dir / FACTS_FILE}: not readable; expected what the training noted. It is left out.")
        return False
    with sending(work_dir, log, wait=False):
        if not RunFile.load(work_dir).status:  # nobody follows it, and it did not get to say how it ended
            tracked_run.ended(work_dir, "KILLED")
        session = Session(work_dir)
        session.open(facts)
        following.send(session, facts)
    return True
