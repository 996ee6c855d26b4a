"""Where each value of a config came from: a tree of source lines kept in parallel with the values.

A tree is either one ``Origin`` (everything below was written there) or a dict from key (a list's or tuple's
position is an int) to a tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from detector.errors import ConfigError

MAX_VALUES = 100_000  # of one config; the largest published one holds about 3,000
MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Origin:
    """One source line: a file (or '--cfg-options', or the name of a text in memory) and its line, from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


Tree: TypeAlias = "Origin | dict[Any, Tree]"
Traced: TypeAlias = tuple[Any, Tree]


def subtree(tree: Tree, key: object) -> Tree:
    """Return the tree of one element; the whole's own origin when the elements are not told apart."""
    return tree if isinstance(tree, Origin) else tree[key]


def expanded(value: object, tree: Tree) -> dict[Any, Tree]:
    """Return the tree of a container with one entry per element (a shallow copy)."""
    if isinstance(tree, dict):
        return dict(tree)
    if isinstance(value, dict):
        return dict.fromkeys(value, tree)
    assert isinstance(value, (list, tuple))
    return dict.fromkeys(range(len(value)), tree)


def first_line(tree: Tree) -> Origin | None:
    """Return the first origin in the tree, None when it is empty."""
    while isinstance(tree, dict):
        if not tree:
            return None
        tree = next(iter(tree.values()))
    return tree


def copied(value: Any, tree: Tree, where: str) -> tuple[Any, Tree]:
    """Copy value and tree so that no two places share a list or dict.

    Raises:
        ConfigError: more than ``MAX_VALUES`` values, deeper than ``MAX_DEPTH``, or a value that is not plain
            data.
    """
    return _Copier(where).copy(value, tree, 0)


class _Copier:
    def __init__(self, where: str) -> None:
        self.where = where
        self.count = 0

    def copy(self, value: Any, tree: Tree, depth: int) -> tuple[Any, Tree]:
        self.count += 1
        if self.count > MAX_VALUES or depth > MAX_DEPTH:
            raise ConfigError(
                f"{self.where}: holds more than {MAX_VALUES} values or {MAX_DEPTH} levels (perhaps a list "
                "that contains itself); expected a config. Write its values out."
            )
        if isinstance(value, dict):
            return self._copy_items(list(value.items()), tree, depth)
        if isinstance(value, (list, tuple)):
            items, trees = self._copy_items(list(enumerate(value)), tree, depth)
            return type(value)(items.values()), trees
        if value is None or isinstance(value, (bool, int, float, str)):
            return value, tree
        raise ConfigError(
            f"{first_line(tree) or self.where}: found a {type(value).__name__}; a config holds only None, "
            "bool, int, float, str, list, tuple and dict. Write the value as one of these."
        )

    def _copy_items(
        self, items: list[tuple[Any, Any]], tree: Tree, depth: int
    ) -> tuple[dict[Any, Any], Tree]:
        values: dict[Any, Any] = {}
        trees: dict[Any, Tree] = {}
        for key, item in items:
            values[key], trees[key] = self.copy(item, subtree(tree, key), depth + 1)
        return values, trees if trees or not isinstance(tree, Origin) else tree


def flattened(value: Any, tree: Tree, prefix: str = "") -> dict[str, Origin]:
    """Return {dotted key: origin} of every leaf; an empty list or dict is a leaf."""
    if isinstance(value, (dict, list, tuple)) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        leaves: dict[str, Origin] = {}
        for key, item in items:
            leaves |= flattened(item, subtree(tree, key), f"{prefix}.{key}" if prefix else str(key))
        return leaves
    origin = first_line(tree)
    return {prefix: origin} if origin is not None and prefix else {}
