"""Deep merge of configs: dicts merge, all else replaces, ``_delete_=True`` drops what was there."""

from __future__ import annotations

from reprlib import repr as short
from typing import Any

from detector.config.origin import Origin, Traced, Tree, expanded, first_line, subtree
from detector.errors import ConfigError

DELETE_KEY = "_delete_"


def merge(
    child: Traced, base: Traced, *, into_lists: bool = False, path: str = ""
) -> tuple[dict[str, Any], Tree]:
    """Return ``base`` overlaid with ``child``; neither is changed.

    Args:
        child: dict and its origins; wins where both have a value.
        base: dict and its origins.
        into_lists: a dict with digit keys addresses the elements of a list or tuple of the base (overrides do
            this).
        path: dotted name of the two dicts, for errors.

    Raises:
        ConfigError: a dict meets a value that is no dict, or an index lies outside of a list.

    Source: checked against mmcv 1.x ``Config._merge_a_into_b`` through mmengine 0.10, which
    leaves ``_delete_`` in a dict that has no counterpart in the base; here it is always removed.
    """
    values = dict(base[0])
    trees = expanded(base[0], base[1])
    for key, value in child[0].items():
        tree = subtree(child[1], key)
        name = f"{path}.{key}" if path else str(key)
        old = (values[key], trees[key]) if key in values else None
        if not isinstance(value, dict):
            values[key], trees[key] = value, tree
        elif old is None or value.get(DELETE_KEY, False):
            values[key], trees[key] = _without_marks(value, tree)
        elif isinstance(old[0], dict):
            values[key], trees[key] = merge((value, tree), old, into_lists=into_lists, path=name)
        elif into_lists and isinstance(old[0], (list, tuple)):
            values[key], trees[key] = _merge_elements((value, tree), old, path=name)
        else:
            raise ConfigError(
                f"{first_line(tree) or name}: {name} is a dict here but {short(old[0])} in "
                f"{first_line(old[1]) or 'the base'}; expected a dict there too. "
                f"Add {DELETE_KEY}=True to the dict to replace the old value."
            )
    values.pop(DELETE_KEY, None)
    trees.pop(DELETE_KEY, None)
    return values, trees or _own(child[1], base[1])


def _own(*trees: Tree) -> Tree:
    for tree in trees:
        if isinstance(tree, Origin):
            return tree
    return {}


def _without_marks(value: Any, tree: Tree) -> Traced:
    """Drop the ``_delete_`` marks of a value that has nothing to merge with."""
    if isinstance(value, dict):
        kept = {k: _without_marks(v, subtree(tree, k)) for k, v in value.items() if k != DELETE_KEY}
        trees = {k: t for k, (_, t) in kept.items()}
        return {k: v for k, (v, _) in kept.items()}, trees or first_line(tree) or {}
    return value, tree


def _merge_elements(child: Traced, base: Traced, *, path: str) -> Traced:
    """Overlay the elements of a list or tuple that ``child`` names by position."""
    values = list(base[0])
    trees = expanded(base[0], base[1])
    for key, value in child[0].items():
        if not str(key).isdigit() or int(key) >= len(values):
            raise ConfigError(
                f"{first_line(child[1]) or path}: {path}.{key} names no element; expected an index from 0 to "
                f"{len(values) - 1}, as {path} is a list of {len(values)}. Correct the index."
            )
        index, tree = int(key), subtree(child[1], key)
        if isinstance(value, dict) and isinstance(values[index], (dict, list, tuple)):
            old, old_tree = {key: values[index]}, {key: trees[index]}
            one, one_tree = merge(({key: value}, {key: tree}), (old, old_tree), into_lists=True, path=path)
            values[index], trees[index] = one[key], subtree(one_tree, key)
        elif isinstance(value, dict):
            raise ConfigError(
                f"{first_line(tree) or path}: {path}.{key} is {short(values[index])}, which has no keys; "
                "expected a dict or list there. Replace the value itself."
            )
        else:
            values[index], trees[index] = value, tree
    return type(base[0])(values), trees
