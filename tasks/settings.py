"""The values of a config, as what a step's key is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def pruned(value: Any, dropped: Sequence[Sequence[str]]) -> Any:
    """A config without the keys whose paths are ``dropped``."""
    if not isinstance(value, Mapping):
        return value
    gone = {path[0] for path in dropped if len(path) == 1}
    return {
        key: pruned(item, [path[1:] for path in dropped if len(path) > 1 and path[0] == key])
        for key, item in value.items()
        if key not in gone
    }


def leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """The values of a config that hold no others, under dotted keys."""
    listed = isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value)
    if not value or not (listed or isinstance(value, Mapping)):
        yield path, repr(value)
        return
    for key, item in enumerate(value) if listed else value.items():
        yield from leaves(item, f"{path}.{key}" if path else str(key))


def freeze(value: Any) -> Any:
    """A JSON-able form in which a tuple differs from a list and 1 from 1.0."""
    if isinstance(value, Mapping):
        return {str(key): freeze(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [type(value).__name__, *map(freeze, value)]
    return repr(value)
