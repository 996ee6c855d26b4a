"""A run's checkpoint files: names, ``latest.pth``, the best one, how many stay, which one to resume from."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from detector.checkpoint.files import (
    CheckpointNotWritten,
    free_bytes,
    load_checkpoint,
    manifest_path,
    payload_bytes,
    save_checkpoint,
    verify_checkpoint,
)
from detector.errors import CheckpointError
from detector.whole_files import remove_leftovers, sync_folder

LATEST = "latest.pth"
BEST_PREFIX = "best_"
REGULAR_PREFIXES = ("epoch_", "iter_", "stopped_")
NUMBERED = re.compile(r"(?P<unit>epoch|iter)_(?P<number>\d+)$")
FORMAT_VERSION = "2.28.2"  # the MMDetection release whose checkpoint layout the files follow
ON_ERROR = ("continue", "stop")


@dataclass
class RunCheckpoints:
    """Writes the checkpoints of one run into its work_dir.

    Attributes:
        work_dir: where they go.
        max_keep: regular checkpoints kept, -1 for all.
        messages: the reference's ``hook_msgs``: last_ckpt, best_score, best_ckpt.
        on_error: what a checkpoint that cannot be written means: 'continue' tells it and goes on without,
            'stop' raises.
        say: receives a line about every such thing.
    """

    work_dir: Path
    max_keep: int = -1
    messages: dict[str, Any] = field(default_factory=dict)
    on_error: str = "continue"
    say: Callable[[str], None] = logging.getLogger(__name__).warning

    def save(self, name: str, payload: Mapping[str, Any], *, must: bool = False) -> Path | None:
        """Write ``<name>`` whole, point ``latest.pth`` at it, drop the oldest beyond ``max_keep``.

        Args:
            name: the file's.
            payload: its content, without the messages.
            must: whether the run depends on this file (its last one, or a stop): then a failure is raised.

        Returns:
            the file, or None when it could not be written and the run goes on without it.

        Raises:
            CheckpointNotWritten: by ``must`` or ``on_error``; every older checkpoint is untouched.
        """
        path = self.work_dir / name
        self.sweep()
        self._make_room(path, payload)
        if not self._write(path, payload, {"last_ckpt": str(path)}, must=must):
            return None
        try:
            point_at(self.work_dir / LATEST, path)
        except OSError as error:
            self.say(f"{path} is written, but {LATEST} cannot be pointed at it: {error.strerror or error}")
        for old in self._outlived(path):
            self._remove(old)
        return path

    def save_best(self, metric: str, value: float, name: str, payload: Mapping[str, Any]) -> Path | None:
        """Write ``best_<metric>_<name>`` and delete the best one before it.

        Returns:
            the file, or None when it could not be written: then the best one before it stays the best, and
            the next evaluation that beats it tries again.

        Raises:
            CheckpointNotWritten: by ``on_error``.
        """
        path = self.work_dir / f"{BEST_PREFIX}{metric}_{name}"
        previous = self.best
        self.sweep()
        notes = {"best_score": float(value), "best_ckpt": str(path)}
        if not self._write(path, payload, notes, must=False):
            return None
        if previous is not None and previous != path:
            self._remove(previous)
        return path

    @property
    def best(self) -> Path | None:
        """The best checkpoint so far, looked for in this work_dir even if the folder was moved."""
        stored = self.messages.get("best_ckpt")
        path = self.work_dir / Path(stored).name if stored else None
        return path if path is not None and path.is_file() else None

    @property
    def best_score(self) -> float | None:
        """Its score."""
        score = self.messages.get("best_score")
        return None if score is None else float(score)

    def sweep(self) -> None:
        """Delete what killed writers left: files in the making, and digests whose file is gone."""
        left = remove_leftovers(self.work_dir, _is_ours)
        for link in self.work_dir.glob(f".{LATEST}.*"):
            owner = link.name.rpartition(".")[2]
            if link.is_symlink() and (owner == str(os.getpid()) or not _alive(owner)):
                link.unlink(missing_ok=True)
        for manifest in self.work_dir.glob("*.pth.sha256"):
            if _is_ours(manifest.name) and not manifest.with_suffix("").exists():
                manifest.unlink(missing_ok=True)
        if left:
            self.say(f"removed what a killed writer left: {', '.join(path.name for path in left)}")

    def _write(self, path: Path, payload: Mapping[str, Any], notes: Mapping[str, Any], *, must: bool) -> bool:
        """Write a file, and keep its notes once it stands; False when the run goes on without it."""
        messages = {**self.messages, **notes}
        meta = {**payload["meta"], "time": time.asctime(), "hook_msgs": messages}
        try:
            save_checkpoint(path, {**payload, "meta": meta})
        except CheckpointNotWritten as error:
            latest = self.work_dir / LATEST
            stands = f"{latest.resolve()} is intact." if latest.exists() else "There is no earlier one."
            if must or self.on_error == "stop":
                raise CheckpointNotWritten(f"{error} {stands}") from error
            self.say(f"NO CHECKPOINT: {error} {stands} Training goes on (checkpoint_config.on_error).")
            return False
        self.messages.update(messages)
        return True

    def _make_room(self, path: Path, payload: Mapping[str, Any]) -> None:
        """On a full disk, delete first what would be deleted right after ``path`` is written.

        Only what makes enough room, and only if a newer checkpoint than all of that is intact: whatever
        happens then, the run can be resumed from where it could be before.
        """
        free, needed = free_bytes(self.work_dir), payload_bytes(payload)
        if free is None or free >= needed:
            return
        outlived = self._outlived(path)
        taken = [file for file in _newest_first(regular_checkpoints(self.work_dir)) if file not in outlived]
        if not outlived or not taken or _written_at(taken[0]) < max(map(_written_at, outlived)):
            return
        going: list[Path] = []
        for old in reversed(_newest_first(outlived)):
            if free < needed:
                going.append(old)
                free += old.stat().st_size
        if free >= needed and is_intact(taken[0]):
            self.say(
                f"too little room for {path.name}: deleting {', '.join(p.name for p in going)} before it"
            )
            for old in going:
                self._remove(old)

    def _outlived(self, path: Path) -> list[Path]:
        """What goes when ``path`` stands: regular checkpoints beyond ``max_keep``, and stopped runs'.

        Never the one that ``latest.pth`` points at, unless that is about to move to ``path``.
        """
        others = _newest_first(file for file in regular_checkpoints(self.work_dir) if file != path)
        latest = self.work_dir / LATEST
        kept = latest.resolve() if path.exists() else path
        beyond = others[max(self.max_keep - 1, 0) :] if self.max_keep > 0 else []
        return [
            file
            for file in others
            if (file in beyond or file.name.startswith("stopped_")) and file.resolve() != kept
        ]

    def _remove(self, path: Path) -> None:
        """Delete an old checkpoint; that it stays is no reason to stop."""
        try:
            remove(path)
        except OSError as error:
            self.say(f"{path} could not be deleted: {error.strerror or error}")


def regular_checkpoints(work_dir: Path) -> list[Path]:
    """The run's own checkpoints, without ``latest`` and the best ones."""
    return _checkpoints(work_dir, REGULAR_PREFIXES)


def find_resume_point(work_dir: Path) -> tuple[Path | None, list[Path]]:
    """The checkpoint of ``work_dir`` that is furthest on and intact, and the damaged ones passed over.

    Files are ordered by the number in their names, epochs against iterations by what the files say; the
    time of writing decides only between equals, since copying changes it. The best one counts too where it
    holds the whole state: it may be all that is left, or newer than the last regular one.

    Returns:
        (path or None, damaged files met on the way).
    """
    damaged: list[Path] = []
    intact: list[Path] = []
    files = _checkpoints(work_dir, (*REGULAR_PREFIXES, BEST_PREFIX))
    for unit in ("epoch", "iter"):
        kind = [path for path in files if _numbered(path)[0] == unit]
        for path in sorted(kind, key=_age, reverse=True):
            if not is_intact(path):
                damaged.append(path)
            elif not _is_best(path) or "resume" in load_checkpoint(path).raw:
                intact.append(path)
                break
    if len(intact) < 2:
        return (intact[0] if intact else None), damaged
    return max(intact, key=lambda path: (_iteration(path), *_age(path)[1:])), damaged


def is_intact(path: Path) -> bool:
    """Whether a checkpoint matches its digest or, without one (the reference writes none), can be read."""
    try:
        if manifest_path(path).is_file():
            return verify_checkpoint(path)
        load_checkpoint(path)
    except (CheckpointError, OSError):
        return False
    return True


def _checkpoints(work_dir: Path, prefixes: tuple[str, ...]) -> list[Path]:
    """Files of a work_dir by how their names begin, without links."""
    found = work_dir.glob("*.pth")
    return [path for path in found if path.name.startswith(prefixes) and not path.is_symlink()]


def _is_ours(name: str) -> bool:
    """Whether a file of this name is one that a run writes beside or as its checkpoints."""
    return name.endswith((".pth", ".pth.sha256")) and name.startswith((*REGULAR_PREFIXES, BEST_PREFIX))


def _is_best(path: Path) -> bool:
    return path.name.startswith(BEST_PREFIX)


def _numbered(path: Path) -> tuple[str, int]:
    """What the name counts ('epoch', else 'iter'), and the number, -1 without one."""
    match = NUMBERED.search(path.stem)
    return (match["unit"], int(match["number"])) if match else ("iter", -1)


def _age(path: Path) -> tuple[int, bool, int]:
    """(number in the name, whether it is a regular one, time of writing)."""
    return _numbered(path)[1], not _is_best(path), _written_at(path)


def _written_at(path: Path) -> int:
    return path.stat().st_mtime_ns


def _newest_first(files: Iterable[Path]) -> list[Path]:
    return sorted(files, key=_written_at, reverse=True)


def _iteration(path: Path) -> int:
    """Finished iterations by the file's ``meta``."""
    return int(load_checkpoint(path).meta.get("iter", 0))


def _alive(pid: str) -> bool:
    """Whether a process of this number runs here; True for what is no number."""
    return not pid.isdecimal() or psutil.pid_exists(int(pid))


def point_at(link: Path, target: Path) -> None:
    """Make ``link`` a relative symlink to ``target`` in one step, durably.

    Raises:
        CheckpointError: a folder is in the way.
    """
    if link.is_dir() and not link.is_symlink():
        raise CheckpointError(
            f"{link}: found a folder; expected a link to the newest checkpoint. Remove the folder."
        )
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.name)
    temporary.replace(link)
    sync_folder(link.parent)


def remove(path: Path) -> None:
    """Delete a checkpoint and its manifest; missing files are fine."""
    path.unlink(missing_ok=True)
    manifest_path(path).unlink(missing_ok=True)
