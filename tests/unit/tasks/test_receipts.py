"""What `python -m tasks cache` says and removes, and running a step although it is done."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from detector.errors import ConfigError, DatasetError
from tasks import cache_command, code, receipts, steps, train, versioning
from tasks.steps import Job, Step, receipt_path

DAY = 86400.0


@dataclass(frozen=True)
class Ask:
    """A request of the toy steps: what goes into the key, and where the output goes."""

    lr: float = 0.1
    data: str = "a" * 64
    name: str = "one"


def make(job: Job, ask: Ask) -> dict[str, Any]:
    path = Path("runs") / ask.name / "model.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{ask.lr} {ask.data}")
    return {"path": path.as_posix()}


TRAIN: Step[Ask] = Step(
    name="train",
    run=make,
    inputs=lambda ask: {"config": steps.digest(ask.lr), "data": {"data/x/images": ask.data}, "seed": 0},
    outputs=lambda ask: [Path("runs") / ask.name / "model.pth"],
    details=lambda ask: {"config": {"optimizer.lr": repr(ask.lr)}},
    versions=("numpy",),
)


def test_file(job: Job, ask: Ask) -> None:
    (Path("runs") / ask.name / "metrics.json").write_text("{}")


TEST: Step[Ask] = Step(
    name="evaluate",
    run=test_file,
    inputs=lambda ask: {"checkpoint": steps.sha256_file(Path("runs") / ask.name / "model.pth")},
    outputs=lambda ask: [Path("runs") / ask.name / "metrics.json"],
)
test_file.__test__ = False  # type: ignore[attr-defined]
STEPS: dict[str, Step[Any]] = {"train": TRAIN, "evaluate": TEST}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTOR_CACHE", raising=False)
    monkeypatch.setattr(steps, "code_digest", lambda roots, ignore: "1" * 64)
    monkeypatch.setattr(
        steps, "modules", lambda roots, ignore: {"detector.a": "1" * 16, "detector.b": "2" * 16}
    )
    monkeypatch.setattr(cache_command, "STEPS", STEPS)
    monkeypatch.setattr(cache_command, "request_for", lambda name, request: request)
    return tmp_path


def quiet(text: str) -> None:
    pass


def cache(*words: str, ask: Ask | None = None) -> tuple[int, str]:
    said: list[str] = []

    def asked(words: Sequence[str]) -> tuple[str, Any]:
        return words[0], ask

    return cache_command.main(list(words), asked, said.append), "\n".join(said)


def age(key: str, days: float) -> None:
    path = receipt_path(key)
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "when": time.time() - days * DAY}))


def test_list_tells_what_verifies_and_why_not() -> None:
    TRAIN.ensure(Ask(), log=quiet)
    other = TRAIN.ensure(Ask(name="two"), log=quiet)
    Path("runs/two/model.pth").unlink()
    status, said = cache("list")
    head, *lines = said.splitlines()
    assert status == 0
    assert head.split() == ["step", "key", "when", "files", "size", "state"]
    assert lines[0].startswith("train ")
    assert lines[0].endswith("verified")
    assert other.key.split("-")[1][:12] in lines[1]
    assert lines[1].endswith("runs/two/model.pth is missing")
    assert len(cache("list", "evaluate")[1].splitlines()) == 1


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (Ask(lr=0.2), ["config optimizer.lr: 0.1 -> 0.2"]),
        (Ask(data="b" * 64), [f"inputs/data/data/x/images: other content ({'a' * 12} -> {'b' * 12})"]),
        (Ask(name="two"), ["outputs: ['runs/one/model.pth'] -> ['runs/two/model.pth']"]),
        (Ask(lr=0.2, data="b" * 64), ["config optimizer.lr", "inputs/data/data/x/images"]),
    ],
    ids=["config", "data", "place", "two"],
)
def test_why_names_the_parts_that_differ(ask: Ask, expected: list[str]) -> None:
    TRAIN.ensure(Ask(), log=quiet)
    status, said = cache("why", "train", ask=ask)
    lines = said.splitlines()[1:]
    assert status == 1
    assert len(lines) == len(expected)
    assert all(line.strip().startswith(start) for line, start in zip(lines, expected, strict=True))


def test_why_names_modules_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    TRAIN.ensure(Ask(), log=quiet)
    monkeypatch.setattr(steps, "code_digest", lambda roots, ignore: "2" * 64)
    monkeypatch.setattr(
        steps, "modules", lambda roots, ignore: {"detector.a": "9" * 16, "detector.c": "3" * 16}
    )
    monkeypatch.setattr(steps, "installed", lambda name: "99.0")
    lines = cache("why", "train", ask=Ask())[1].splitlines()[1:]
    assert [line.strip().split(" (")[0] for line in lines[:3]] == [
        "code detector.a: other content",
        f"code detector.b: {'2' * 12} -> absent",
        f"code detector.c: absent -> {'3' * 12}",
    ]
    assert lines[3].endswith("-> 99.0")


def test_why_of_what_is_done_damaged_or_new() -> None:
    assert cache("why", "train", ask=Ask())[1] == (
        "train: would run: it has not run yet, there is no receipt to compare with"
    )
    TRAIN.ensure(Ask(), log=quiet)
    assert cache("why", "train", ask=Ask())[0] == 0
    Path("runs/one/model.pth").write_text("damaged")
    assert "but runs/one/model.pth was changed" in cache("why", "train", ask=Ask())[1]


def test_nearest_run_is_at_the_same_place_and_differs_least() -> None:
    TRAIN.ensure(Ask(lr=0.5, data="c" * 64), log=quiet)
    near = TRAIN.ensure(Ask(lr=0.5), log=quiet)
    TRAIN.ensure(Ask(lr=0.1, name="two"), log=quiet)
    found = receipts.nearest(TRAIN.parts(Ask(lr=0.1)), receipts.receipts(STEPS))
    assert found is not None
    assert found.receipt.key == near.key


def test_receipt_of_before_the_details_still_counts() -> None:
    made = TRAIN.ensure(Ask(), log=quiet)
    path = receipt_path(made.key)
    old = {
        name: value for name, value in json.loads(path.read_text()).items() if name not in ("when", "details")
    }
    path.write_text(json.dumps(old))
    said: list[str] = []
    TRAIN.ensure(Ask(), log=said.append)
    assert "up to date" in said[0]
    assert cache("list")[1].endswith("verified")
    assert "inputs/config: other content" in cache("why", "train", ask=Ask(lr=0.2))[1]


def test_forgotten_step_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[Ask] = []
    step = replace(TRAIN, afresh=dropped.append)
    first = step.ensure(Ask(), log=quiet)
    step.forget(Ask())
    said: list[str] = []
    again = step.ensure(Ask(), log=said.append)
    assert "running (not run yet" in said[0]
    assert dropped == [Ask()]
    assert again.key == first.key


def test_forgetting_what_cannot_run_yet_leaves_the_message_to_the_run() -> None:
    def missing(ask: Ask) -> dict[str, Any]:
        raise DatasetError("train first")

    step = replace(TRAIN, inputs=missing)
    step.forget(Ask())
    with pytest.raises(DatasetError, match="train first"):
        step.ensure(Ask(), log=quiet)


@pytest.mark.parametrize("others", [0, 1], ids=["the newest", "set aside by another training"])
def test_forgotten_training_starts_from_its_beginning(
    project: Path, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    request: Any = SimpleNamespace(run_dir=project / "runs/x")
    monkeypatch.setattr(Step, "key", lambda self, request: "train-1")
    work_dir = train.prepare_work_dir(project / "runs/x/train", Job("train-1", quiet))
    (work_dir / "epoch_1.pth").write_text("x")
    for number in range(others):
        train.prepare_work_dir(work_dir, Job(f"another-{number}", quiet))
    train.STEP.afresh(request)
    train.prepare_work_dir(work_dir, Job("train-1", quiet))
    assert not (work_dir / "epoch_1.pth").exists()


def prune(*words: str) -> str:
    return cache("prune", "--yes", *words)[1]


def test_prune_removes_old_receipts_with_the_files_that_only_they_list(project: Path) -> None:
    old = TRAIN.ensure(Ask(), log=quiet)
    new = TRAIN.ensure(Ask(name="two"), log=quiet)
    record = project / ".cache/prefect/keys" / old.key
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    age(old.key, 40)
    assert "would remove file runs/one/model.pth" in cache("prune", "--older-than", "30d", "--dry-run")[1]
    assert Path("runs/one/model.pth").exists()
    assert "1 receipts and 1 files" in prune("--older-than", "30d")
    assert not Path("runs/one").exists()
    assert not receipt_path(old.key).exists()
    assert not record.exists()
    assert receipt_path(new.key).exists()
    assert Path("runs/two/model.pth").exists()


def test_prune_without_a_limit_takes_only_receipts_of_what_is_gone() -> None:
    first = TRAIN.ensure(Ask(), log=quiet)
    second = TRAIN.ensure(Ask(lr=0.2), log=quiet)
    assert "1 receipts and 0 files" in prune()
    assert not receipt_path(first.key).exists()
    assert receipt_path(second.key).exists()
    assert Path("runs/one/model.pth").read_text().startswith("0.2")


def test_what_is_left_of_a_damaged_result_stays() -> None:
    step = replace(TRAIN, outputs=lambda ask: [Path("runs/one/model.pth"), Path("runs/one/loss.csv")])

    def both(job: Job, ask: Ask) -> dict[str, Any]:
        made = make(job, ask)
        Path("runs/one/loss.csv").write_text("1")
        return made

    made = replace(step, run=both).ensure(Ask(), log=quiet)
    Path("runs/one/loss.csv").unlink()
    assert "0 receipts and 0 files" in prune()
    age(made.key, 40)
    assert "1 receipts and 1 files" in prune("--older-than", "30d")


def test_keep_protects_the_newest_of_every_step() -> None:
    keys = [TRAIN.ensure(Ask(name=name), log=quiet).key for name in ("one", "two", "three")]
    for key, days in zip(keys, (50, 40, 35), strict=True):
        age(key, days)
    prune("--older-than", "30d", "--keep", "2")
    assert [receipt_path(key).exists() for key in keys] == [False, True, True]
    prune("--keep", "1")
    assert [receipt_path(key).exists() for key in keys] == [False, False, True]


def test_what_a_kept_result_was_made_from_stays() -> None:
    made = TRAIN.ensure(Ask(), log=quiet)
    TEST.ensure(Ask(), log=quiet)
    age(made.key, 40)
    assert "0 receipts" in prune("--older-than", "30d")
    assert Path("runs/one/model.pth").exists()


def test_files_of_dvc_stay(project: Path) -> None:
    (project / "dvc.lock").write_text(
        "stages:\n  t:\n    outs:\n    - path: runs/one/model.pth\n      md5: x\n"
    )
    made = TRAIN.ensure(Ask(), log=quiet)
    age(made.key, 40)
    assert "1 receipts and 0 files" in prune("--older-than", "30d")
    assert Path("runs/one/model.pth").exists()


def test_files_outside_of_the_project_and_links_targets_stay(project: Path) -> None:
    (project / "store").mkdir()
    (project / "store/a.png").write_text("x")

    def link(job: Job, ask: Ask) -> None:
        Path("data").mkdir()
        Path("data/images").symlink_to(project / "store")

    step = replace(TRAIN, run=link, outputs=lambda ask: [Path("data/images"), project / "store/a.png"])
    age(step.ensure(Ask(), log=quiet).key, 40)
    assert "remove file data/images" in prune("--older-than", "30d")
    assert not Path("data/images").is_symlink()
    assert (project / "store/a.png").exists()


def test_what_a_running_step_holds_stays() -> None:
    made = TRAIN.ensure(Ask(), log=quiet)
    age(made.key, 40)
    with steps.locked(steps.lock_name("train", ["runs/one/model.pth"]), quiet):
        assert "stays: a running step" in prune("--older-than", "30d")
    assert receipt_path(made.key).exists()
    assert Path("runs/one/model.pth").exists()


def test_prune_asks_and_refuses_when_nobody_can_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    age(TRAIN.ensure(Ask(), log=quiet).key, 40)
    with pytest.raises(ConfigError, match="Add --yes or --dry-run"):
        cache("prune", "--older-than", "30d")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda text: "n")
    assert cache("prune", "--older-than", "30d")[1].endswith("nothing removed")


@pytest.mark.parametrize("words", [["--older-than", "soon"], ["--keep", "many"]])
def test_wrong_limits(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cache("prune", *words)
    assert "soon" in (said := capsys.readouterr().err) or "many" in said


def test_dvc_files_name_what_is_tracked(project: Path) -> None:
    (project / "data").mkdir()
    (project / "data/mine.manifest.dvc").write_text("outs:\n- path: mine.manifest\n  md5: x\n")
    (project / "dvc.lock").write_text(
        "stages:\n  a:\n    deps:\n    - path: data/y\n    outs:\n    - path: runs/z\n"
    )
    tracked = versioning.tracked()
    assert all(map(tracked, ["data/mine.manifest", "data/y/deep/er.png", "runs/z"]))
    assert not any(map(tracked, ["data/mine", "runs/zz", "runs"]))


def test_modules_are_told_shortly() -> None:
    found = code.modules(["tasks.walking", "no.module.of.ours"])
    assert set(map(len, found.values())) == {16}
    assert "tasks.walking" in found
