"""A run's checkpoints on a full disk, their leftovers, and which one to go on from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detector.checkpoint.files import CheckpointNotWritten, load_checkpoint, manifest_path, save_checkpoint
from detector.engine import checkpoints
from detector.engine.checkpoints import RunCheckpoints, find_resume_point, regular_checkpoints
from detector.errors import CheckpointError


def payload(number: int) -> dict[str, Any]:
    return {
        "meta": {"iter": number},
        "state_dict": {"w": torch.full((50_000,), float(number))},
        "optimizer": {"state": {}},
        "resume": {"iteration": number},
    }


class Run:
    """Checkpoints of a run, what it said, and how much room there seems to be."""

    def __init__(self, work_dir: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.said: list[str] = []
        self.work_dir = work_dir
        self.run = RunCheckpoints(work_dir, say=self.said.append, **options)
        self.room: Callable[[], int | None] = lambda: None
        for module in ("engine.checkpoints", "checkpoint.files"):
            monkeypatch.setattr(f"detector.{module}.free_bytes", lambda folder: self.room())

    def save(self, number: int, **options: Any) -> Path | None:
        path = self.run.save(f"iter_{number}.pth", payload(number), **options)
        if path is not None:
            os.utime(path, ns=(number * 10**9, number * 10**9))
        return path

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.work_dir.iterdir() if path.suffix != ".sha256")

    def disk_of(self, size: int) -> None:
        """From now on the work_dir's disk has ``size`` bytes."""
        self.room = lambda: (
            size - sum(p.stat().st_size for p in self.work_dir.glob("*.pth") if not p.is_symlink())
        )


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    return lambda **options: Run(tmp_path, monkeypatch, **options)


def test_a_full_disk_is_told_and_the_run_goes_on(make: Callable[..., Run]) -> None:
    run = make()
    run.save(1)
    run.room = lambda: 1000
    assert run.save(2) is None
    (line,) = run.said
    assert "NO CHECKPOINT" in line
    assert "expected 0.2 MiB" in line
    assert f"{run.work_dir / 'iter_1.pth'} is intact" in line
    assert run.files == ["iter_1.pth", "latest.pth"]
    assert run.run.messages["last_ckpt"].endswith("iter_1.pth")
    run.room = lambda: None
    assert run.save(3) == run.work_dir / "iter_3.pth"


@pytest.mark.parametrize(
    ("options", "must"), [({"on_error": "stop"}, False), ({}, True)], ids=["stop", "must"]
)
def test_by_policy_or_need_it_is_an_error(
    make: Callable[..., Run], options: dict[str, str], must: bool
) -> None:
    run = make(**options)
    run.save(1)
    run.room = lambda: 1000
    with pytest.raises(CheckpointError, match=r"iter_2\.pth: found 0\.0 MiB free.*iter_1\.pth is intact"):
        run.save(2, must=must)
    assert run.files == ["iter_1.pth", "latest.pth"]


def test_the_first_one_has_none_before_it(make: Callable[..., Run]) -> None:
    run = make()
    run.room = lambda: 1000
    with pytest.raises(CheckpointNotWritten, match="There is no earlier one"):
        run.save(1, must=True)


def test_a_better_one_that_cannot_be_written_leaves_the_best(make: Callable[..., Run]) -> None:
    run = make()
    best = run.run.save_best("mAP", 0.5, "epoch_1.pth", payload(1))
    run.room = lambda: 1000
    assert run.run.save_best("mAP", 0.7, "epoch_2.pth", payload(2)) is None
    assert (run.run.best, run.run.best_score) == (best, 0.5)
    assert run.files == ["best_mAP_epoch_1.pth"]
    run.room = lambda: None
    run.run.save_best("mAP", 0.6, "epoch_3.pth", payload(3))
    assert run.files == ["best_mAP_epoch_3.pth"]


def test_what_would_go_anyway_goes_first_when_the_room_is_short(make: Callable[..., Run]) -> None:
    run = make(max_keep=2)
    run.save(1), run.save(2)
    run.disk_of(550_000)  # two of 200 kB, not three
    assert run.save(3) is not None
    assert run.files == ["iter_2.pth", "iter_3.pth", "latest.pth"]
    assert run.said == ["too little room for iter_3.pth: deleting iter_1.pth before it"]


@pytest.mark.parametrize("case", ["the only one", "others damaged", "not enough", "none to spare"])
def test_nothing_goes_first_that_might_be_needed(make: Callable[..., Run], case: str) -> None:
    run = make(max_keep={"the only one": 1, "none to spare": -1}.get(case, 2))
    run.save(1), run.save(2)
    if case == "others damaged":
        (run.work_dir / "iter_2.pth").write_bytes(b"damaged")
        os.utime(run.work_dir / "iter_2.pth", ns=(2 * 10**9, 2 * 10**9))
    before = run.files
    run.disk_of(100_000 if case == "not enough" else 400_000 if case != "the only one" else 250_000)
    if case == "others damaged":
        run.disk_of(300_000)
    assert run.save(3) is None
    assert run.files == before


def test_a_stopped_runs_file_stays_until_a_newer_one_stands(make: Callable[..., Run]) -> None:
    run = make()
    run.save(1)
    stopped = run.run.save("stopped_iter_2.pth", payload(2))
    run.disk_of(450_000)
    assert run.save(3) is None
    assert stopped is not None
    assert stopped.is_file()
    assert find_resume_point(run.work_dir) == (stopped, [])


def test_a_link_that_cannot_be_made_is_told_and_its_target_stays(
    make: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(max_keep=1)
    run.save(1)

    def refuse(link: Path, target: Path) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(checkpoints, "point_at", refuse)
    assert run.save(2) is not None
    assert "cannot be pointed" in run.said[0]
    assert run.files == ["iter_1.pth", "iter_2.pth", "latest.pth"]


def test_leftovers_of_killed_writers_go_and_other_files_stay(make: Callable[..., Run]) -> None:
    run = make()
    stay = [".mine.pth.1.2.tmp", ".iter_9.pth", "epoch_3.json.sha256", "other.pth.sha256"]
    for name in [
        *stay,
        ".iter_9.pth.123.456.tmp",
        ".best_mAP_iter_9.pth.sha256.1.2.tmp",
        "iter_8.pth.sha256",
    ]:
        (run.work_dir / name).write_bytes(b"x")
    (run.work_dir / f".latest.pth.{os.getpid()}").symlink_to("iter_8.pth")
    run.run.sweep()
    assert sorted(path.name for path in run.work_dir.iterdir()) == sorted(stay)
    assert ".iter_9.pth.123.456.tmp" in run.said[0]


def test_the_best_one_is_gone_on_from_when_it_is_all_that_is_left(make: Callable[..., Run]) -> None:
    run = make()
    run.save(4)
    best = run.run.save_best("mAP", 0.5, "iter_4.pth", payload(4))
    assert find_resume_point(run.work_dir)[0] == run.work_dir / "iter_4.pth"
    (run.work_dir / "iter_4.pth").write_bytes(b"cut")
    assert find_resume_point(run.work_dir) == (best, [run.work_dir / "iter_4.pth"])


def test_the_best_one_is_gone_on_from_when_it_is_newer(make: Callable[..., Run]) -> None:
    run = make()
    run.save(4)
    best = run.run.save_best("mAP", 0.5, "iter_6.pth", payload(6))
    assert find_resume_point(run.work_dir) == (best, [])


def test_a_best_one_without_the_runs_state_is_not_gone_on_from(make: Callable[..., Run]) -> None:
    run = make()
    run.save(4)
    content = payload(9)
    save_checkpoint(
        run.work_dir / "best_mAP_iter_9.pth", {key: content[key] for key in ("meta", "state_dict")}
    )
    assert find_resume_point(run.work_dir) == (run.work_dir / "iter_4.pth", [])


def test_a_file_that_cannot_be_read_is_passed_over(
    make: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make()
    run.save(1), run.save(2)
    honest = checkpoints.verify_checkpoint

    def broken(path: Path) -> bool:
        if path.name == "iter_2.pth":
            raise OSError(5, "Input/output error")
        return honest(path)

    monkeypatch.setattr(checkpoints, "verify_checkpoint", broken)
    assert find_resume_point(run.work_dir) == (run.work_dir / "iter_1.pth", [run.work_dir / "iter_2.pth"])


def test_names_decide_when_copying_changed_the_times(make: Callable[..., Run]) -> None:
    run = make()
    run.save(9), run.save(10)
    copy = run.work_dir / "copy"
    copy.mkdir()
    for path in [*reversed(sorted(regular_checkpoints(run.work_dir))), *run.work_dir.glob("*.sha256")]:
        shutil.copyfile(path, copy / path.name)
    assert find_resume_point(copy)[0] == copy / "iter_10.pth"
    assert manifest_path(copy / "iter_10.pth").is_file()
    assert load_checkpoint(copy / "iter_10.pth").meta["iter"] == 10
