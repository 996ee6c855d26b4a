"""Read a config file (.py, .json, .yaml) of MMDetection's v2 dialect without running any code.

A Python config is parsed with ``ast`` and evaluated by ``expressions.py``; its ``_base_`` files are read
first and merged below it. What is no data (imports, functions, loops, calls) is an error that names file and
line.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any

from detector.config.data_files import fill_base_variables, parse_data
from detector.config.expressions import BASE_MARKER, Evaluator
from detector.config.merge import merge
from detector.config.origin import Tree, copied
from detector.config.statements import run_statement
from detector.errors import ConfigError

BASE_KEY = "_base_"
DEPRECATION_KEY = "_deprecation_"
RESERVED_KEYS = ("filename", "text", "pretty_text")
SUFFIXES = (".py", ".json", ".yaml", ".yml")
MAX_BYTES = 10_000_000

_BASE_VARIABLE = re.compile(r"""(['"]?)\{\{\s*_base_\.([\w.]+)\s*\}\}\1""")
_ENVIRONMENT_VARIABLE = re.compile(r"""\{\{['"]?\s*\$\w+\s*:""")


@dataclass(frozen=True)
class Source:
    """A config as written: bases merged, nothing normalised.

    Attributes:
        data: values by top-level name.
        tree: their origins.
        notes: one line for each thing the reader wants the user to know (deprecations, imports that are not
            run).
        files: every file read, bases first.
    """

    data: dict[str, Any]
    tree: Tree
    notes: tuple[str, ...]
    files: tuple[str, ...]


def read_file(path: str | Path) -> Source:
    """Read a config file and its bases.

    Raises:
        ConfigError: the file or a base is missing, is no config, holds code, two bases give the same
            top-level key, or the bases form a circle.
    """
    return _read_file(Path(path).expanduser(), chain=())


def read_text(
    text: str, *, name: str = "<text>", directory: str | Path | None = None, suffix: str = ".py"
) -> Source:
    """Read a config held in memory, for instance ``meta['config']`` of a checkpoint.

    Args:
        text: the config.
        name: what errors and origins call it.
        directory: where ``_base_`` paths start; without it a text that has a ``_base_`` is an error.
        suffix: the language, one of ``SUFFIXES``.

    Raises:
        ConfigError: see ``read_file``.
    """
    return _read(text, name=name, directory=Path(directory) if directory else None, suffix=suffix, chain=())


def _read_file(path: Path, *, chain: tuple[Path, ...]) -> Source:
    asked_by = f" (a {BASE_KEY} of {chain[-1]})" if chain else ""
    if path.suffix not in SUFFIXES:
        raise ConfigError(
            f"{path}{asked_by}: not a config file; expected one of {', '.join(SUFFIXES)}. Name such a file."
        )
    if not path.is_file():
        raise ConfigError(f"{path}{asked_by}: no such file; expected a config file. Correct the path.")
    absolute = path.resolve()
    if absolute in chain:
        circle = " -> ".join(str(p) for p in (*chain, absolute))
        raise ConfigError(
            f"{path}{asked_by}: the {BASE_KEY} files form a circle: {circle}. Remove one of these bases."
        )
    try:
        size = path.stat().st_size
        text = path.read_text(encoding="utf-8") if size <= MAX_BYTES else ""
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(
            f"{path}{asked_by}: unreadable ({problem}); expected UTF-8 text. Repair the file."
        ) from problem
    if size > MAX_BYTES:
        raise ConfigError(
            f"{path}{asked_by}: {size} bytes; a config has at most {MAX_BYTES}. Name a config file."
        )
    text = _insert_file_names(text, path)
    return _read(text, name=str(path), directory=path.parent, suffix=path.suffix, chain=(*chain, absolute))


def _insert_file_names(text: str, path: Path) -> str:
    """Replace ``{{fileBasename}}`` and its like, also outside of strings, as MMDetection does."""
    absolute = Path.cwd() / path
    names = {
        "fileDirname": absolute.parent.as_posix(),
        "fileBasename": path.name,
        "fileBasenameNoExtension": path.stem,
        "fileExtname": path.suffix,
    }
    for key, value in names.items():
        pattern = r"\{\{\s*" + key + r"\s*\}\}"
        text = value.replace("\\", "/").join(re.split(pattern, text))
    return text


def _read(text: str, *, name: str, directory: Path | None, suffix: str, chain: tuple[Path, ...]) -> Source:
    if match := _ENVIRONMENT_VARIABLE.search(text):
        line = text.count("\n", 0, match.start()) + 1
        raise ConfigError(
            f"{name}:{line}: found an environment variable; expected a value, as in MMDetection 2.x. Write "
            "the value, or give it with --cfg-options."
        )
    text = _BASE_VARIABLE.sub(lambda m: json.dumps(BASE_MARKER + m.group(2)), text)
    try:
        if suffix == ".py":
            return _read_python(text, name=name, directory=directory, chain=chain)
        return _read_data(text, name=name, directory=directory, suffix=suffix, chain=chain)
    except (RecursionError, MemoryError) as problem:
        raise ConfigError(
            f"{name}: nested too deeply to be a config; write it with fewer brackets."
        ) from problem


def _read_python(text: str, *, name: str, directory: Path | None, chain: tuple[Path, ...]) -> Source:
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError) as problem:
        line = getattr(problem, "lineno", None) or 0
        message = getattr(problem, "msg", None) or problem
        raise ConfigError(f"{name}:{line}: not valid Python ({message}). Correct the syntax.") from problem
    is_base = [
        isinstance(s, ast.Assign) and any(_is_name(t, BASE_KEY) for t in s.targets) for s in module.body
    ]
    before = Evaluator(file=name, base=({}, {}), scope={})
    bases = [before.evaluate(s.value) for s, base in zip(module.body, is_base, strict=True) if base]  # type: ignore[attr-defined]
    base = _read_bases(bases[-1] if bases else None, name=name, directory=directory, chain=chain)
    evaluator = Evaluator(file=name, base=(base.data, base.tree), scope={})
    for statement, skip in zip(module.body, is_base, strict=True):
        if not skip:
            run_statement(evaluator, statement)
    kept = {key: traced for key, traced in evaluator.scope.items() if not key.startswith("__")}
    values = {key: value for key, (value, _) in kept.items()}
    return _finish(values, {key: tree for key, (_, tree) in kept.items()}, base, name)


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _read_data(
    text: str, *, name: str, directory: Path | None, suffix: str, chain: tuple[Path, ...]
) -> Source:
    data, lines = parse_data(text, name=name, suffix=suffix)
    bases = (data.pop(BASE_KEY), lines.pop(BASE_KEY)) if BASE_KEY in data else None
    base = _read_bases(bases, name=name, directory=directory, chain=chain)
    evaluator = Evaluator(file=name, base=(base.data, base.tree), scope={})
    filled = {key: fill_base_variables(value, lines[key], evaluator) for key, value in data.items()}
    values = {key: value for key, (value, _) in filled.items()}
    return _finish(values, {key: tree for key, (_, tree) in filled.items()}, base, name)


def _read_bases(
    bases: tuple[Any, Tree] | None, *, name: str, directory: Path | None, chain: tuple[Path, ...]
) -> Source:
    """Read the files that ``_base_`` names and join them; no two may give the same top-level key."""
    if bases is None:
        return Source(data={}, tree={}, notes=(), files=())
    paths = [bases[0]] if isinstance(bases[0], str) else bases[0]
    if not isinstance(paths, (list, tuple)) or not all(isinstance(p, str) for p in paths):
        raise ConfigError(
            f"{name}: {BASE_KEY} is {short(bases[0])}; expected a path or a list of paths. Write it so."
        )
    if directory is None:
        raise ConfigError(
            f"{name}: has {BASE_KEY} = {short(bases[0])}, but a text in memory has no folder to find it in. "
            "Save it beside its bases and read the file."
        )
    data: dict[str, Any] = {}
    tree: dict[Any, Tree] = {}
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    owners: dict[str, str] = {}
    for written in paths:
        path = directory / Path(written).expanduser()
        source = _read_file(_tidy(path), chain=chain)
        for key in source.data:
            if key in owners:
                raise ConfigError(
                    f"{name}: its bases {owners[key]} and {written} both give '{key}'; expected each "
                    "top-level key in one base only. Remove one of the bases, or let one inherit the other."
                )
            owners[key] = written
        data |= source.data
        tree |= source.tree if isinstance(source.tree, dict) else {}
        notes, files = notes + source.notes, files + source.files
    return Source(data=data, tree=tree, notes=notes, files=files)


def _tidy(path: Path) -> Path:
    """Remove ``a/../`` from a path where that names the same file (it may not, if ``a`` is a link)."""
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts and parts[-1] not in ("..", "/"):
            parts.pop()
        else:
            parts.append(part)
    short = Path(*parts)
    return short if short.resolve() == path.resolve() else path


def _finish(values: dict[str, Any], trees: dict[Any, Tree], base: Source, name: str) -> Source:
    """Check the names, merge over the bases, and separate what is written in one place from every other."""
    for key in values:
        if not isinstance(key, str) or not key.isidentifier() or key in RESERVED_KEYS:
            raise ConfigError(
                f"{name}: the top-level key {key!r} cannot be used; expected a plain name other than "
                f"{', '.join(RESERVED_KEYS)}. Rename it."
            )
    notes = base.notes
    deprecation = values.pop(DEPRECATION_KEY, None)
    trees.pop(DEPRECATION_KEY, None)
    if isinstance(deprecation, dict):
        notes += (f"{name} is deprecated; use {deprecation.get('expected', 'another config')} instead.",)
    if "custom_imports" in values:
        notes += (
            f"{name}: custom_imports is not run ({short(values['custom_imports'])}); what it "
            "registers is unknown here.",
        )
    values, tree = copied(*merge(copied(values, trees, name), (base.data, base.tree)), name)
    return Source(data=values, tree=tree, notes=notes, files=(*base.files, name))
