"""The operators, functions and methods that a config may use, and the bounds on what they may make."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

MAX_LENGTH = 100_000
MAX_BITS = 4096
FORMAT_SPEC = re.compile(r"[<>^=+\- #0]*\d{0,3}[,_]?(\.\d{1,2})?[a-zA-Z%]?")

BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitOr: operator.or_,
}
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
BUILTINS: dict[str, Callable[..., Any]] = {
    "range": lambda *a: list(bounded(range(*a))),
    "enumerate": lambda *a: list(enumerate(*a)),
    "zip": lambda *a: list(zip(*a, strict=False)),
    "reversed": lambda a: list(reversed(a)),
    "sorted": sorted,
    "list": list,
    "tuple": tuple,
    "len": len,
    "min": min,
    "max": max,
    "sum": lambda a: sum(a, 0),
    "abs": abs,
    "round": round,
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
}
METHODS: dict[type, dict[str, Callable[..., Any]]] = {
    dict: {
        "copy": dict.copy,
        "get": dict.get,
        "keys": lambda d: list(d),
        "values": lambda d: list(d.values()),
        "items": lambda d: list(d.items()),
    },
    list: {"copy": list.copy, "index": list.index},
}


def bounded(values: Any) -> Any:
    """Return the values; raise OverflowError if there are more than MAX_LENGTH."""
    if len(values) > MAX_LENGTH:
        raise OverflowError(f"more than {MAX_LENGTH} elements")
    return values


def whole_bounded(value: Any) -> Any:
    """Return the value; raise OverflowError if it and all it contains are more than MAX_LENGTH values.

    What lists share counts every time: comparing, hashing or writing out a value visits it that often.
    """
    count, stack = 0, [value]
    while stack:
        count += 1
        if count + len(stack) > MAX_LENGTH:
            raise OverflowError(f"more than {MAX_LENGTH} values")
        top = stack.pop()
        if isinstance(top, dict):
            stack.extend(top.values())
        elif isinstance(top, (list, tuple)):
            stack.extend(top)
    return value


def scalar_key(key: Any) -> Any:
    """Return a dict's key; raise TypeError if it is a container."""
    if isinstance(key, (list, tuple, dict)):
        raise TypeError("a key is a string or number here")
    return key


def bounded_result(value: Any) -> Any:
    """Return the value; raise OverflowError if it is a string, list or tuple longer than MAX_LENGTH."""
    return bounded(value) if isinstance(value, (list, tuple, str)) else value


def check_operands(op: ast.operator, left: Any, right: Any) -> None:
    """Refuse operations whose result could be huge, and ``str % x``."""
    sized = [v for v in (left, right) if isinstance(v, (str, list, tuple))]
    if isinstance(op, ast.Mult) and sized:
        times = right if sized[0] is left else left
        if isinstance(times, int) and len(sized[0]) * times > MAX_LENGTH:
            raise OverflowError(f"more than {MAX_LENGTH} elements")
    elif isinstance(op, ast.Add) and len(sized) == 2 and len(left) + len(right) > MAX_LENGTH:
        raise OverflowError(f"more than {MAX_LENGTH} elements")
    elif isinstance(op, ast.Mod) and sized:
        raise TypeError("string formatting with % is not read; use an f-string")
    elif isinstance(op, ast.BitOr) and not (isinstance(left, dict) and isinstance(right, dict)):
        raise TypeError("| joins two dicts only")
    if isinstance(op, (ast.Mult, ast.Pow)) and isinstance(left, int) and isinstance(right, int):
        bits = (
            left.bit_length() * max(right, 1)
            if isinstance(op, ast.Pow)
            else left.bit_length() + right.bit_length()
        )
        if bits > MAX_BITS:
            raise OverflowError(f"an integer of more than {MAX_BITS} bits")
