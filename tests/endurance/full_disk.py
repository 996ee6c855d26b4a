"""A disk that is full: while checkpoints are written, and below a whole training."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from detector.checkpoint.files import load_checkpoint, verify_checkpoint
from detector.engine import checkpoints
from detector.engine.checkpoints import LATEST, RunCheckpoints, find_resume_point
from detector.errors import CheckpointError
from tests.endurance.records import final_state
from tests.endurance.tiny_run import Marks, ended, start_training, warm_up, write_config

OFFSETS = 10
SPACE_CHECKS = ("checkpoint.files", "engine.checkpoints")
#: until a training of seconds must have ended
LIMIT_S = 300.0


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: as on a full disk, in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def payload(number: int, mib: float, tensors: int = 24) -> dict[str, Any]:
    """A checkpoint whose every value is ``number``."""
    count = int(mib * 2**20 / 4 / tensors)
    state = {f"layer{i}.weight": torch.full((count,), float(number)) for i in range(tensors)}
    return {"meta": {"iter": number}, "state_dict": state, "optimizer": {}, "resume": {"iteration": number}}


def holds(path: Path, number: int | None = None) -> bool:
    """Whether a file can be loaded and is whole: all its values are its iteration's."""
    try:
        file = load_checkpoint(path)
    except CheckpointError:
        return False
    value = int(file.meta["iter"])
    return number in (None, value) and all(bool((t == value).all()) for t in file.state_dict.values())


def messages(work_dir: Path) -> dict[str, Any]:
    """The ``hook_msgs`` of the newest intact checkpoint."""
    found, _ = find_resume_point(work_dir)
    return load_checkpoint(found).meta["hook_msgs"] if found is not None else {}


@contextlib.contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """A tmpfs of some MiB.

    Raises:
        PermissionError: mounting is not allowed here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        raise PermissionError(f"{folder}: a tmpfs cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(work_dir: Path, left: int) -> None:
    """Let a ballast file take all but ``left`` bytes of the disk."""
    with (work_dir / "ballast").open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, max(1, checkpoints.free_bytes(work_dir) or 1) - left)


def full_disk_faults(
    work_dir: Path, offset: float, number: int, mib: float, limit: Callable[[int], Any]
) -> list[str]:
    """Let two writes (regular, best) fail after a share of the file, then free the room and save again.

    Args:
        work_dir: holds at least one whole checkpoint and a best one.
        offset: share of the file that still fits.
        number: of the checkpoint.
        mib: its size.
        limit: called with the bytes that fit; gives a context in which that is so.
    """
    said: list[str] = []
    run = RunCheckpoints(work_dir, max_keep=2, say=said.append)
    run.messages.update(messages(work_dir))
    content, faults = payload(number, mib), []
    before, best = (work_dir / LATEST).resolve(), run.best
    # the disk was not full when it was looked at: another program, or a quota, is what stops the writing
    unseen = [mock.patch(f"detector.{name}.free_bytes", return_value=None) for name in SPACE_CHECKS]
    with limit(int(offset * mib * 2**20)), unseen[0], unseen[1]:
        written = (
            run.save(f"iter_{number}.pth", content),
            run.save_best("mAP", number, f"iter_{number}.pth", content),
        )
        if written != (None, None):
            faults.append(f"written on a full disk: {written}")
        with contextlib.suppress(CheckpointError):
            run.save(f"iter_{number}.pth", content, must=True)
            faults.append("must=True did not raise")
    if len(said) != 2 or not all("NO CHECKPOINT" in line and str(before) in line for line in said):
        faults.append(f"said {said}")
    if (
        (work_dir / LATEST).resolve() != before
        or not holds(work_dir / LATEST)
        or not verify_checkpoint(before)
    ):
        faults.append("latest changed or does not load")
    if run.best != best or (best is not None and not holds(best)):
        faults.append("the best one changed")
    if left := [path.name for path in work_dir.glob(".*")]:
        faults.append(f"left behind: {left}")
    again = run.save(f"iter_{number}.pth", content)
    if again is None or not holds(work_dir / LATEST, number):
        faults.append(f"cannot save again: {said[2:]}")
    return [f"offset {offset:.2f}: {fault}" for fault in faults]


def fill_disk(folder: Path, mib: float = 3.0) -> list[str]:
    """The whole procedure on a tmpfs; the faults."""
    with small_disk(folder, int(mib * 5)) as work_dir:
        run = RunCheckpoints(work_dir, max_keep=2)
        run.save_best("mAP", 0.5, "iter_1.pth", payload(1, mib))
        run.save("iter_1.pth", payload(1, mib))

        @contextlib.contextmanager
        def filled(left: int) -> Iterator[None]:
            fill(work_dir, left)
            yield
            (work_dir / "ballast").unlink()

        faults = []
        for step in range(OFFSETS):
            faults += full_disk_faults(work_dir, (step + 0.5) / OFFSETS, step + 2, mib, filled)
        with filled(int(mib * 2**19)):
            said: list[str] = []
            RunCheckpoints(work_dir, say=said.append).save("iter_99.pth", payload(99, mib))
            print(f"with half the room, before writing: {said[0]}")
    return faults


def train_through_it(folder: Path) -> list[str]:
    """Fill the disk below a training after its first checkpoint; the faults.

    By the policy 'continue' it goes on, saves again once there is room, and ends as one that was not
    disturbed; by 'stop' it ends with an error. Both times the first checkpoint stays.
    """
    config = write_config(folder, "epoch")
    warm_up(config)
    undisturbed = Marks()
    pid = start_training(config, folder / "undisturbed", undisturbed)
    while (code := ended(pid)) is None:
        time.sleep(0.01)
    expected = final_state(folder / "undisturbed")
    faults = [] if code == 0 else [f"the undisturbed training ended with {code}"]
    for policy in ("continue", "stop"):
        with small_disk(folder / policy, 60) as work_dir:
            code, said, full = _trained(config, work_dir, folder / f"notes_{policy}", policy)
            told = "NO CHECKPOINT" in said if policy == "continue" else "is intact" in said
            found = final_state(work_dir)
        if code != int(policy == "stop") or not told or not full:
            faults.append(f"{policy}: code {code}, checkpoints on the full disk {full}, said {said[-1500:]}")
        same = all(found[key] == expected[key] for key in ("weights", "optimizer", "iteration"))
        if same != (policy == "continue"):
            faults.append(f"{policy}: ended with {found}, undisturbed {expected}")
        print(
            f"a training on a full disk, on_error={policy}: exit code {code}, latest intact meanwhile: {full}"
        )
    return faults


def _trained(config: Path, work_dir: Path, notes: Path, policy: str) -> tuple[int, str, bool]:
    """(exit code, what was said, whether latest was intact while the disk was full)."""
    marks, started, output = Marks(), time.monotonic(), notes / "output.txt"
    notes.mkdir()
    output.touch()
    options = [f"checkpoint_config.on_error={policy}"]
    pid = start_training(config, work_dir, marks, options=options, notes=notes)
    filled = intact = False
    while (code := ended(pid)) is None:
        if not filled and marks.count("evaluate"):  # the first checkpoint stands
            fill(work_dir, 2**20)
            filled = True
        said = output.read_text()
        if filled and not intact and "NO CHECKPOINT" in said:
            intact = verify_checkpoint((work_dir / LATEST).resolve())
            (work_dir / "ballast").unlink()
        if time.monotonic() > started + LIMIT_S:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.005)
    said = output.read_text()
    return code, said, intact or verify_checkpoint((work_dir / LATEST).resolve())
