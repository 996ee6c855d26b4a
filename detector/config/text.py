"""Config data as Python text: the same for the same data, readable by people and by ``read.py``."""

from __future__ import annotations

import hashlib
import keyword
import math
from collections.abc import Mapping
from typing import Any

WIDTH = 100
INDENT = 4


def format_config(data: Mapping[str, Any]) -> str:
    """Return one assignment per top-level key, in the data's order."""
    return "".join(f"{key} = {_format(value, 0, len(key) + 3)}\n" for key, value in data.items())


def digest(data: Mapping[str, Any]) -> str:
    """Return the sha256 of the data, whatever the order of its keys; lists and tuples, 1 and 1.0 differ."""
    return hashlib.sha256(_one_line(_sorted(data)).encode()).hexdigest()


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value, key=lambda k: (type(k).__name__, str(k)))}
    if isinstance(value, (list, tuple)):
        return type(value)(_sorted(item) for item in value)
    return value


def _format(value: Any, indent: int, used: int) -> str:
    """Format a value; a container that does not fit the rest of its line gets one line per element."""
    line = _one_line(value)
    if not isinstance(value, (dict, list, tuple)) or not value or indent + used + len(line) <= WIDTH:
        return line
    inner = indent + INDENT
    pad = " " * inner
    if isinstance(value, dict):
        opening, closing, joint = ("dict(", ")", "=") if _is_keywords(value) else ("{", "}", ": ")
        names = [str(k) if joint == "=" else repr(k) for k in value]
        rows = [
            n + joint + _format(v, inner, len(n) + len(joint) + 1)
            for n, v in zip(names, value.values(), strict=True)
        ]
    else:
        opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")")
        rows = [_format(item, inner, 1) for item in value]
    return opening + "\n" + "".join(f"{pad}{row},\n" for row in rows) + " " * indent + closing


def _one_line(value: Any) -> str:
    if isinstance(value, dict):
        if _is_keywords(value):
            return "dict(" + ", ".join(f"{k}={_one_line(v)}" for k, v in value.items()) + ")"
        return "{" + ", ".join(f"{k!r}: {_one_line(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        inner = ", ".join(_one_line(item) for item in value)
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    return repr(value)


def _is_keywords(value: Mapping[Any, Any]) -> bool:
    return all(isinstance(k, str) and k.isidentifier() and not keyword.iskeyword(k) for k in value)
