"""The house rules of DESIGN.md that a machine can hold: sizes, names, what an import may pull in."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(p for top in ("detector", "tasks", "flows") for p in (ROOT / top).rglob("*.py"))
MODULE_LINES = 600
FUNCTION_LINES = 60
# A name here needs its reason beside it; the list only shrinks.
LONG_FUNCTIONS: dict[str, str] = {}


def _ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    start = (first.end_lineno if documented else first.lineno - 1) or 0
    return (function.end_lineno or 0) - start


@pytest.mark.parametrize("path", MODULES, ids=_ids)
def test_a_module_stays_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MODULE_LINES


@pytest.mark.parametrize("path", MODULES, ids=_ids)
def test_a_function_stays_readable(path: Path) -> None:
    long = {f.name: _body_lines(f) for f in _functions(path) if _body_lines(f) > FUNCTION_LINES}
    allowed = {name for name in long if f"{_ids(path)}:{name}" in LONG_FUNCTIONS}
    assert not set(long) - allowed, f"longer than {FUNCTION_LINES} lines: {long}"


@pytest.mark.parametrize("path", MODULES, ids=_ids)
def test_a_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{_ids(path)} has no module docstring"


@pytest.mark.parametrize("path", MODULES, ids=_ids)
def test_no_room_is_called_junk(path: Path) -> None:
    assert not {"utils", "util", "common", "misc", "core", "helpers"} & {*path.parts, path.stem}


def _imported_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(' '.join(sys.modules))"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import detector", {"torch", "cv2", "prefect", "mlflow", "dvc", "numpy"}),
        ("import detector.cli", {"torch", "cv2", "prefect", "mlflow", "dvc", "numpy"}),
        ("import detector.config", {"torch", "cv2", "numpy"}),
        ("import detector.commands.convert", {"torch", "prefect", "mlflow"}),
        ("import tasks.steps", {"torch", "prefect", "mlflow", "dvc"}),
        ("import tasks.__main__", {"torch", "prefect", "mlflow", "dvc"}),
        ("import flows.plugin", {"torch", "mlflow", "dvc"}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_an_import_stays_light(code: str, forbidden: set[str]) -> None:
    assert not _imported_by(code) & forbidden


def test_every_package_of_the_wheel_is_in_the_import_contracts() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    shipped = settings["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert set(settings["importlinter"]["root_packages"]) == set(shipped)
