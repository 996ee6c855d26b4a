"""The stamp: what it says, what it hides, and what surrounds a run."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from detector.config import Config, config_from_text
from detector.lineage import stamp, surroundings
from detector.lineage.data import annotation_files, data_facts, sha256_file

NO_RUNS = {"code": None, "versions": {}}


def config(**data: Any) -> Config:
    return Config(name="c", path=Path("configs/c.py"), data=data, origins={})


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["train", "c.py", "--seed", "3"], ["train", "c.py", "--seed", "3"]),
        (["--cfg-options", "a.password=xyz"], ["--cfg-options", "a.password=***"]),
        (["--cfg-options", "store.access_key_id=xyz"], ["--cfg-options", "store.access_key_id=***"]),
        (["--api-key", "xyz", "c.py"], ["--api-key", "***", "c.py"]),
        (["load_from=https://me:xyz@host/w.pth"], ["load_from=https://***@host/w.pth"]),
        (["model.num_tokens=4", "model.token_dim=8"], ["model.num_tokens=4", "model.token_dim=8"]),
    ],
    ids=["plain", "password", "key", "option", "address", "no secret"],
)
def test_secrets_of_a_command_are_hidden(given: list[str], shown: list[str]) -> None:
    assert stamp.build({"command": given})["command"] == shown


def test_secrets_of_a_config_are_hidden_and_named() -> None:
    found = stamp.config_facts(config(model={"cls_token": True}, store={"user": "u", "secret_key": "xyz"}))
    assert "xyz" not in found["text"]
    assert found["masked"] == ["store.secret_key"]
    assert (
        found["sha256"]
        == config(model={"cls_token": True}, store={"user": "u", "secret_key": "xyz"}).sha256()
    )


def test_the_text_of_a_config_gives_its_values_back() -> None:
    found = stamp.config_facts(config_from_text("model = dict(type='A', depth=(1, 2.0))\nseed = 3\n"))
    assert "masked" not in found
    assert config_from_text(found["text"]).sha256() == found["sha256"]


def test_a_stamp_has_an_order_and_says_nothing_of_nothing() -> None:
    found = stamp.build({"versions": {"torch": "2"}, "runs": {}, "code": None, "command": ["a"], "other": 1})
    assert list(found) == ["stamp", "command", "versions"]
    assert stamp.build(found) == found


def test_facts_belong_to_their_scope() -> None:
    stamp.note(command=["nobody"])
    assert stamp.current() is None
    with stamp.collecting(command=["outer"], **NO_RUNS):
        with stamp.collecting(options={"a": 1}):
            stamp.note(weights_sha256="f")
            assert stamp.current() == {
                **{"stamp": 1, "command": ["outer"]},
                **{"weights_sha256": "f", "options": {"a": 1}},
            }
        assert stamp.current() == {"stamp": 1, "command": ["outer"]}
    assert not stamp.collects()


def git(folder: Path, *arguments: str) -> None:
    settings = ["-c", "user.name=n", "-c", "user.email=e@e", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *settings, *arguments], check=True, capture_output=True)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of one committed file, taken for ours."""
    place = tmp_path / "top" / "detector"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text("")
    git(tmp_path / "top", "init", "--quiet")
    git(tmp_path / "top", "add", ".")
    git(tmp_path / "top", "commit", "--quiet", "-m", "first")
    monkeypatch.setattr(surroundings, "PACKAGE", place)
    return place


@pytest.mark.parametrize(
    ("changed", "dirty"),
    [("", False), ("../runs.txt", False), ("new.py", True), ("__init__.py", True)],
    ids=["clean", "new file beside the package", "new module", "changed module"],
)
def test_the_commit_of_the_code_and_whether_it_is_all(package: Path, changed: str, dirty: bool) -> None:
    if changed:
        (package / changed).write_text("a = 1\n")
    found = surroundings.code_state()
    assert found is not None
    assert len(found["commit"]) == 40
    assert (found["dirty"], found["of"]) == (dirty, "package")
    assert surroundings.repository() == package.parent.resolve()


def test_an_installed_package_takes_the_commit_of_the_config(package: Path, tmp_path: Path) -> None:
    git(package.parent, "rm", "--quiet", "--cached", "detector/__init__.py")  # as in an ignored environment
    assert surroundings.code_state() is None
    assert surroundings.repository() is None
    assert (surroundings.code_state(package.parent) or {})["of"] == "config"
    assert surroundings.code_state(tmp_path) is None


def test_ids_of_runs_come_from_the_environment_when_they_are_known(tmp_path: Path) -> None:
    file = tmp_path / "mlflow_run.json"
    given = {"DETECTOR_PREFECT_RUN": "p", "DETECTOR_MLFLOW_RUN": f"@{file}"}
    assert surroundings.run_ids(given) == {"prefect": "p"}
    file.write_text('{"run_id": ""}')
    assert surroundings.run_ids(given) == {"prefect": "p"}
    file.write_text('{"run_id": "m"}')
    assert surroundings.run_ids(given) == {"mlflow": "m", "prefect": "p"}


def test_data_is_told_by_its_annotation_files(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    section = {
        "type": "RepeatDataset",
        "dataset": [{"data_root": str(tmp_path), "ann_file": ["a.json", "b.json"]}],
    }
    assert list(annotation_files(section)) == [tmp_path / "a.json", tmp_path / "b.json"]
    found = data_facts(section, None, environ={})
    assert found["annotations"] == {(tmp_path / "a.json").as_posix(): sha256_file(tmp_path / "a.json")}
    assert found["images"] == "not hashed"
    assert data_facts(section, environ={"DETECTOR_DATA_DIGEST": "d"})["images"] == "in the digest"
