"""The digest of the code a step runs: every module it reaches by import, inside functions too, none imported.

A change to a comment, a docstring or the formatting leaves the digest as it was; any other change in a
reachable module alters it. Modules named as text (``"detector.models.fpn"``, ``"detector.cli:main"``) count
as imports, because that is how lazy tables name what they load.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.digests import digest

OURS = ("detector", "tasks", "flows")
MODULE_TEXT = re.compile(r"^(?:detector|tasks|flows)(?:\.\w+)+(?::\w+)?$")


@dataclass(frozen=True)
class Source:
    """What one source file holds: a digest of its meaning and the modules it names."""

    sha256: str
    imports: tuple[tuple[str, str | None], ...]  # (module, name taken from it or None)
    texts: tuple[str, ...]  # modules named in string constants
    lazy: bool  # the file hands out names on demand (module-level __getattr__)


def code_digest(roots: Sequence[str], *, ignore: Sequence[str] = ()) -> str:
    """One digest of all project modules reachable from ``roots``.

    Args:
        roots: dotted module names to start from.
        ignore: modules (with all below them) that are neither hashed nor followed.
    """
    return digest(closure(roots, ignore=ignore))


def modules(roots: Sequence[str], *, ignore: Sequence[str] = ()) -> dict[str, str]:
    """Dotted name -> short digest of what ``code_digest`` digests, to be kept and compared."""
    ours = [name for name in roots if _locate(name) is not None]
    return {name: sha[:16] for name, sha in sorted(closure(ours, ignore=ignore).items())}


def closure(roots: Sequence[str], *, ignore: Sequence[str] = ()) -> dict[str, str]:
    """Dotted name -> digest of every project module reachable from ``roots``.

    Raises:
        ModuleNotFoundError: a root does not exist.
    """
    missing = [name for name in roots if _locate(name) is None]
    if missing:
        raise ModuleNotFoundError(f"no module {missing[0]!r}: a step names it as its code")
    seen: dict[str, str] = {}
    pending = list(roots)
    while pending:
        name = pending.pop()
        if name in seen or any(name == top or name.startswith(f"{top}.") for top in ignore):
            continue
        path = _locate(name)
        if path is None:
            continue
        source = read_source(path)
        seen[name] = source.sha256
        pending.extend(_parents(name))
        pending.extend(_named(source))
        if not source.lazy:
            pending.extend(source.texts)
    return seen


def _named(source: Source) -> Iterable[str]:
    """The modules that a file's import statements load."""
    for module, name in source.imports:
        yield module
        if name is None or name.startswith("__"):
            continue
        yield f"{module}.{name}"
        package = _locate(module)
        if package is not None and _locate(f"{module}.{name}") is None:
            held = read_source(package)
            yield from held.texts if held.lazy else ()


def _parents(name: str) -> list[str]:
    """The packages whose ``__init__`` runs before module ``name``."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


@functools.cache
def _top(package: str) -> Path | None:
    spec = (
        importlib.util.find_spec(package) if package in OURS else None
    )  # a top-level name: found, not imported
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


def _locate(name: str) -> Path | None:
    """The source file of a project module, or None when ``name`` is no module of ours."""
    package, *rest = name.split(":")[0].split(".")
    top = _top(package)
    if top is None:
        return None
    base = top.joinpath(*rest)
    candidates = (base / "__init__.py", base.with_suffix(".py")) if rest else (base / "__init__.py",)
    return next((path for path in candidates if path.is_file()), None)


def read_source(path: Path) -> Source:
    """Parse one file (once per content)."""
    return _parse(path.read_bytes(), path)


@functools.lru_cache(maxsize=4096)
def _parse(data: bytes, path: Path) -> Source:
    tree = ast.parse(data, filename=str(path))
    _strip(tree)
    imports: list[tuple[str, str | None]] = []
    texts: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports.extend((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imports.extend((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE_TEXT.match(node.value):
            texts.append(node.value.split(":")[0])
    lazy = any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body)
    meaning = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
    return Source(sha256=meaning, imports=tuple(imports), texts=tuple(texts), lazy=lazy)


def _strip(tree: ast.Module) -> None:
    """Drop what never runs: docstrings, and imports that only a type checker sees."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        first = body[0] if body else None
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            body = body[1:]
        node.body = [item for item in body if not _for_types_only(item)]  # type: ignore[attr-defined]


def _for_types_only(node: ast.AST) -> bool:
    if not isinstance(node, ast.If) or node.orelse:
        return False
    test = node.test
    name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else ""
    return name == "TYPE_CHECKING"
