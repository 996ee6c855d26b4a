from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from tasks import code
from tasks.registry import PIPELINE, STEPS
from tasks.steps import PLUMBING

PROJECT = Path(__file__).resolve().parents[3]
STAGES = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]


def says_nothing(path: Path) -> bool:
    """Whether a file, say a package's ``__init__``, holds at most a docstring."""
    body = ast.parse(path.read_text()).body
    return all(isinstance(item, ast.Expr) for item in body)


def files_of(name: str) -> list[str]:
    step = STEPS[name]
    found = code.closure([step.run.__module__, *step.code], ignore=[*PLUMBING, *step.ignore])
    paths = [code._locate(module) for module in found]
    return sorted(path.relative_to(PROJECT).as_posix() for path in paths if path)


def covered(path: str, deps: list[str]) -> bool:
    return any(path == dep or path.startswith(f"{dep}/") for dep in deps)


def test_every_step_is_a_stage() -> None:
    assert list(STAGES) == list(PIPELINE)


@pytest.mark.parametrize("name", list(PIPELINE))
def test_stage_depends_on_all_code_of_its_step(name: str) -> None:
    missing = [path for path in files_of(name) if not covered(path, STAGES[name]["deps"])]
    assert [path for path in missing if not says_nothing(PROJECT / path)] == []


@pytest.mark.parametrize("name", list(PIPELINE))
def test_dependencies_in_the_project_exist(name: str) -> None:
    kept = [dep for dep in STAGES[name]["deps"] if dep.startswith(("detector", "tasks", "configs"))]
    assert [dep for dep in kept if not (PROJECT / dep).exists()] == []


def test_changing_the_evaluation_leaves_the_training_alone() -> None:
    deps = STAGES["train"]["deps"]
    assert not covered("detector/evaluation/coco.py", deps)
    assert not covered("detector/visualize.py", deps)
    assert not covered("tasks/evaluate.py", deps)


@pytest.mark.parametrize("name", ["convert", "train", "evaluate", "format"])
def test_stages_depend_on_the_prepared_data(name: str) -> None:
    assert "data/${dataset}/source.json" in STAGES[name]["deps"]


def test_versioned_data_is_imported_from_the_sources_in_git() -> None:
    file = yaml.safe_load((PROJECT / "data.dvc").read_text())
    assert [dep["path"] for dep in file["deps"]] == ["configs/sources"]
    assert [out["path"] for out in file["outs"]] == ["data/sources"]
    assert file["deps"][0]["md5"] == file["outs"][0]["md5"]
    assert not file.get("frozen")
    assert "data/sources" in STAGES["prepare"]["deps"]
