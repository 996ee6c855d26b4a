from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tasks import code

FILES = {
    "__init__.py": (
        '"""Lazy."""\n_LAZY = {"init": "detector.inference"}\n\n'
        "def __getattr__(name):\n    return _LAZY[name]\n"
    ),
    "inference.py": "VALUE = 1\n",
    "engine/__init__.py": "",
    "engine/train.py": (
        "from typing import TYPE_CHECKING\nfrom detector.engine import loop\n"
        "if TYPE_CHECKING:\n    from detector import evaluation\n"
        "def train():\n    from detector.models.catalog import CATALOG\n    return CATALOG\n"
    ),
    "engine/loop.py": "import json\n\nSTEPS = 3  # as in the paper\n",
    "models/__init__.py": "",
    "models/catalog.py": 'CATALOG = {"ResNet": "detector.models.resnet:ResNet"}\n',
    "models/resnet.py": "class ResNet:\n    pass\n",
    "evaluation.py": "AP = 1\n",
    "user.py": "from detector import init\n",
    "version.py": "from detector import __version__\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "detector"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(code, "_top", lambda name: root if name == "detector" else None)
    return root


def test_closure_follows_imports_inside_functions_and_names_in_text(package: Path) -> None:
    found = set(code.closure(["detector.engine.train"]))
    assert found == {
        "detector", "detector.engine", "detector.engine.train", "detector.engine.loop", "detector.models",
        "detector.models.catalog", "detector.models.resnet",
    }  # fmt: skip


def test_lazy_names_of_a_package_count_only_when_taken(package: Path) -> None:
    assert "detector.inference" in code.closure(["detector.user"])
    assert "detector.inference" not in code.closure(["detector.engine.loop"])
    assert "detector.inference" not in code.closure(["detector.version"])


@pytest.mark.parametrize(
    ("file", "old", "new", "same"),
    [
        ("engine/loop.py", "STEPS = 3", "STEPS = 4", False),
        ("models/resnet.py", "pass", "depth = 18", False),
        ("engine/loop.py", "# as in the paper", "# as in the code", True),
        ("engine/train.py", "def train():\n", 'def train():\n    """Train."""\n', True),
        ("evaluation.py", "AP = 1", "AP = 2", True),
        ("inference.py", "VALUE = 1", "VALUE = 2", True),
    ],
    ids=["constant", "lazy-module", "comment", "docstring", "types-only-import", "unreached"],
)
def test_digest_changes_with_meaning_only(package: Path, file: str, old: str, new: str, same: bool) -> None:
    before = code.code_digest(["detector.engine.train"])
    path = package / file
    path.write_text(path.read_text().replace(old, new))
    assert (code.code_digest(["detector.engine.train"]) == before) is same


def test_ignored_modules_are_neither_hashed_nor_followed(package: Path) -> None:
    found = code.closure(["detector.engine.train"], ignore=["detector.models"])
    assert not any(name.startswith("detector.models") for name in found)


def test_unknown_root_is_an_error(package: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"detector\.nothing"):
        code.code_digest(["detector.nothing"])


def test_nothing_is_imported(package: Path) -> None:
    before = set(sys.modules)
    code.code_digest(["detector.engine.train"])
    assert {name for name in set(sys.modules) - before if name.startswith("detector")} == set()
