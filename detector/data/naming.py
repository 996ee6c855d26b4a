"""Words for errors: the names nearest to a wrong one, and keyword arguments checked against a constructor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from detector.errors import ConfigError
from detector.naming import close_names


def nearest(name: str, accepted: Iterable[str], count: int = 3) -> str:
    """A phrase such as `` (nearest: 'person', 'rider')``, or '' when nothing is close."""
    hits = close_names(name, accepted, count=count)
    return f" (nearest: {', '.join(map(repr, hits))})" if hits else ""


def accepted_arguments(build: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """Keyword arguments of a constructor, in order, without our own ``where``.

    Where a subclass hands the rest on (``**more``), those of its parents come after its own.
    """
    found: dict[str, inspect.Parameter] = {}
    steps = (
        [vars(c)["__init__"] for c in build.__mro__ if "__init__" in vars(c)]
        if isinstance(build, type)
        else [build]
    )
    for step in steps:
        parameters = inspect.signature(step).parameters
        named = {k: p for k, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
        found.update({k: p for k, p in named.items() if k != "where" and k not in found})
        if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            break
    return found


def construct(build: Callable[..., Any], arguments: Mapping[str, Any], *, where: str) -> Any:
    """Call ``build(**arguments)`` after checking the names.

    Args:
        build: a class or function with keyword arguments only.
        arguments: what the config says, without ``type``.
        where: dotted path of the config section, for the error.

    Raises:
        ConfigError: an argument is unknown, or a required one is missing.
    """
    name = getattr(build, "__name__", str(build))
    accepted = accepted_arguments(build)
    unknown = [key for key in arguments if key not in accepted and key != "where"]
    if unknown:
        key = unknown[0]
        raise ConfigError(
            f"{where}.{key}: {name} has no argument {key!r}{nearest(key, accepted)}. It accepts "
            f"{', '.join(accepted) or 'none'}. Rename or remove the key."
        )
    missing = [k for k, p in accepted.items() if p.default is inspect.Parameter.empty and k not in arguments]
    if missing:
        raise ConfigError(
            f"{where}: {name} needs {', '.join(missing)}, and the config gives none. Add the key."
        )
    return build(**arguments)
