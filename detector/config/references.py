"""References inside a config's strings: ``${key}``, and the data root that the environment moves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from detector.config.origin import Origin, Traced, Tree, expanded, first_line, subtree
from detector.errors import ConfigError

DATASETS_VARIABLE = "MMDET_DATASETS"

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_NOWHERE = Origin("a reference", 0)


def substitute_references(data: dict[str, Any], tree: Tree) -> tuple[dict[str, Any], Tree]:
    """Replace ``${a.b}`` in strings by the config's value; then ``model_wrapper`` replaces ``model``.

    A string that is one reference becomes the value itself; inside a longer string the value must be a
    scalar.

    Raises:
        ConfigError: the referenced key does not exist, is a list or dict inside a longer string, or refers to
            itself.
    """
    values, trees = _substitute((data, tree), root=data, active=())
    if "model_wrapper" in values:
        trees = expanded(values, trees)
        values["model"], trees["model"] = values.pop("model_wrapper"), trees.pop("model_wrapper")
    return values, trees


def _substitute(traced: Traced, *, root: dict[str, Any], active: tuple[str, ...]) -> Traced:
    value, tree = traced
    if isinstance(value, str) and "${" in value:
        return _resolve_string(value, tree, root=root, active=active), tree
    if isinstance(value, (dict, list, tuple)):
        items = list(value.items() if isinstance(value, dict) else enumerate(value))
        new = {k: _substitute((v, subtree(tree, k)), root=root, active=active) for k, v in items}
        values = {k: v for k, (v, _) in new.items()}
        trees: Tree = {k: t for k, (_, t) in new.items()}
        return (values if isinstance(value, dict) else type(value)(values.values())), trees or tree
    return value, tree


def _resolve_string(value: str, tree: Tree, *, root: dict[str, Any], active: tuple[str, ...]) -> Any:
    where = first_line(tree)
    whole = _REFERENCE.fullmatch(value)
    if whole:
        return _look_up(whole.group(1), where, root=root, active=active)

    def insert(match: re.Match[str]) -> str:
        found = _look_up(match.group(1), where, root=root, active=active)
        if isinstance(found, (dict, list, tuple)):
            raise ConfigError(
                f"{where}: {match.group(0)} stands inside a longer string but names a "
                f"{type(found).__name__}; expected a number or string. Write the value out."
            )
        return str(found)

    return _REFERENCE.sub(insert, value)


def _look_up(path: str, where: Origin | None, *, root: dict[str, Any], active: tuple[str, ...]) -> Any:
    if path in active:
        raise ConfigError(
            f"{where}: ${{{path}}} refers to itself through {' -> '.join(active)}. Write the value out."
        )
    value: Any = root
    for key in path.split("."):
        try:
            value = value[int(key)] if isinstance(value, (list, tuple)) else value[key]
        except (KeyError, IndexError, ValueError, TypeError) as problem:
            raise ConfigError(
                f"{where}: ${{{path}}} names no value of this config. Correct the name."
            ) from problem
    return _substitute((value, where or _NOWHERE), root=root, active=(*active, path))[0]


def move_data_root(
    data: dict[str, Any], tree: Tree, environment: Mapping[str, str]
) -> tuple[dict[str, Any], Tree, tuple[str, ...]]:
    """Put the folder that ``MMDET_DATASETS`` names in the place of ``data_root`` in every string of ``data``.

    As in MMDetection, strings inside lists are left alone.
    """
    new_root = environment.get(DATASETS_VARIABLE)
    old_root = data.get("data_root")
    if (
        not new_root
        or not isinstance(old_root, str)
        or not old_root
        or not isinstance(data.get("data"), dict)
    ):
        return data, tree, ()

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: replaced(v) for k, v in value.items()}
        return value.replace(old_root, new_root) if isinstance(value, str) else value

    moved = {**data, "data": replaced(data["data"]), "data_root": new_root}
    return (
        moved,
        tree,
        (f"{DATASETS_VARIABLE} is set: the data are read from {new_root} instead of {old_root}.",),
    )
