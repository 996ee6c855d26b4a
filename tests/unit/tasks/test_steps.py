from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tasks import steps
from tasks.steps import Job, Step


@dataclass
class Ask:
    """A request of the toy step: the text to write and where."""

    text: str = "one"
    name: str = "out"
    ran: list[str] = field(default_factory=list)


def run(job: Job, ask: Ask) -> dict[str, Any]:
    ask.ran.append(job.key)
    Path(ask.name).mkdir(exist_ok=True)
    (Path(ask.name) / "a.txt").write_text(ask.text)
    (Path(ask.name) / "b.txt").write_text("fixed")
    return {"length": len(ask.text)}


STEP: Step[Ask] = Step(
    name="toy",
    run=run,
    inputs=lambda ask: {"text": ask.text},
    outputs=lambda ask: [Path(ask.name)],
    versions=("numpy",),
)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTOR_CACHE", raising=False)
    monkeypatch.setattr(steps, "code_digest", lambda roots, ignore: "code-1")
    return tmp_path


def quiet(text: str) -> None:
    pass


def test_second_run_is_up_to_date() -> None:
    ask = Ask()
    said: list[str] = []
    first = STEP.ensure(ask, log=said.append)
    again = STEP.ensure(ask, log=said.append)
    assert len(ask.ran) == 1
    assert again == first
    assert first.value == {"length": 3}
    assert "up to date" in said[-1]


def test_receipt_lists_every_file() -> None:
    receipt = STEP.ensure(Ask(), log=quiet)
    stored = json.loads(steps.receipt_path(receipt.key).read_text())
    assert sorted(stored["outputs"]) == ["out/a.txt", "out/b.txt"]
    assert stored["outputs"]["out/b.txt"]["size"] == 5


def remove(path: Path) -> None:
    path.unlink()


def corrupt_keeping_size(path: Path) -> None:
    path.write_text("eno")


def grow(path: Path) -> None:
    path.write_text("one and more")


@pytest.mark.parametrize("damage", [remove, corrupt_keeping_size, grow])
def test_damaged_output_runs_again(damage: Any) -> None:
    ask = Ask()
    STEP.ensure(ask, log=quiet)
    damage(Path("out/a.txt"))
    STEP.ensure(ask, log=quiet)
    assert len(ask.ran) == 2
    assert Path("out/a.txt").read_text() == "one"


def test_touched_output_is_still_done() -> None:
    ask = Ask()
    STEP.ensure(ask, log=quiet)
    os.utime("out/a.txt", (1, 1))
    STEP.ensure(ask, log=quiet)
    assert len(ask.ran) == 1


def test_unreadable_receipt_runs_again() -> None:
    ask = Ask()
    receipt = STEP.ensure(ask, log=quiet)
    steps.receipt_path(receipt.key).write_text('{"step":')
    STEP.ensure(ask, log=quiet)
    assert len(ask.ran) == 2


@pytest.mark.parametrize("other", [Ask(text="two"), Ask(name="elsewhere")], ids=["input", "output path"])
def test_key_tells_requests_apart(other: Ask) -> None:
    assert STEP.key(Ask()) != STEP.key(other)


def test_key_changes_with_code_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    before = STEP.key(Ask())
    assert replace(STEP, versions=("numpy", "torch")).key(Ask()) != before
    monkeypatch.setattr(steps, "code_digest", lambda roots, ignore: "code-2")
    assert STEP.key(Ask()) != before
    assert "." not in before


def test_going_back_finds_the_earlier_receipt_only_if_outputs_fit() -> None:
    ask = Ask()
    STEP.ensure(ask, log=quiet)
    STEP.ensure(Ask(text="two"), log=quiet)
    STEP.ensure(ask, log=quiet)
    assert len(ask.ran) == 2


def test_failed_step_leaves_no_receipt() -> None:
    def fail(job: Job, ask: Ask) -> None:
        raise ValueError("no")

    step = replace(STEP, run=fail)
    with pytest.raises(ValueError, match="no"):
        step.ensure(Ask(), log=quiet)
    assert step.receipt(step.key(Ask()))[0] is None


def test_step_that_does_not_write_its_output_fails() -> None:
    step = replace(STEP, outputs=lambda ask: [Path("never")])
    with pytest.raises(FileNotFoundError, match="never"):
        step.ensure(Ask(), log=quiet)


def test_links_are_recorded_by_target_and_broken_ones_noticed(project: Path) -> None:
    (project / "store").mkdir()

    def link(job: Job, ask: Ask) -> dict[str, Any]:
        Path("data").unlink(missing_ok=True)
        Path("data").symlink_to(project / "store")
        return {"links": ["data"]}

    step = replace(STEP, run=link, outputs=lambda ask: [], extra=lambda value: [*map(Path, value["links"])])
    receipt = step.ensure(Ask(), log=quiet)
    assert receipt.outputs == {"data": {"link": str(project / "store")}}
    (project / "store").rename(project / "moved")
    assert "link data" in step.receipt(receipt.key)[1]


def test_two_at_once_run_once() -> None:
    ask = Ask()

    def slow(job: Job, ask: Ask) -> dict[str, Any]:
        time.sleep(0.1)
        return run(job, ask)

    step = replace(STEP, run=slow)
    said: list[str] = []
    threads = [threading.Thread(target=step.ensure, args=(ask, said.append)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(ask.ran) == 1
    assert sum("waiting" in line for line in said) == 1


def test_cache_folder_can_be_elsewhere(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTOR_CACHE", str(project / "other"))
    receipt = STEP.ensure(Ask(), log=quiet)
    assert (project / "other" / "steps" / f"{receipt.key}.json").is_file()
    assert not (project / ".cache").exists()


def test_write_text_leaves_no_temporary_file(project: Path) -> None:
    steps.write_text(project / "x" / "y.txt", "text")
    assert [path.name for path in (project / "x").iterdir()] == ["y.txt"]
