"""Evaluate the closed set of Python expressions that MMDetection's config files use, without running code.

Names, literals, ``dict(...)``, arithmetic, comparison, subscripts, comprehensions, f-strings, a few pure
built-ins and a few methods of dict and list (``operations.py``). Every value comes with the tree of lines it
was written on (``origin.py``). Sizes are bounded, because a config text may come out of a downloaded
checkpoint.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Any

from detector.config.operations import (
    BINARY,
    BUILTINS,
    COMPARE,
    FORMAT_SPEC,
    METHODS,
    UNARY,
    bounded_result,
    check_operands,
    scalar_key,
    whole_bounded,
)
from detector.config.origin import Origin, Traced, Tree, expanded, subtree
from detector.errors import ConfigError

MAX_STEPS = 50_000  # the largest published config takes 698
BASE_MARKER = "\x00_base_."  # reading replaces ``{{_base_.a.b}}`` by the string constant "\x00_base_.a.b"

Scope = dict[str, Traced]

_CONVERSIONS: dict[str, Callable[[Any], str]] = {"s": str, "r": repr, "a": ascii}

CONSTANTS = {"inf": float("inf"), "nan": float("nan")}  # how MMDetection's dumped configs write these numbers


class Evaluator:
    """Evaluates expressions of one file.

    Attributes:
        file: name used in errors and origins.
        base: merged values and origins of the file's bases, for ``{{_base_.a.b}}`` and ``_base_.a.b``.
        scope: variables assigned so far.
    """

    def __init__(self, *, file: str, base: Traced, scope: Scope) -> None:
        self.file = file
        self.base = base
        self.scope = scope
        self.steps = 0

    def error(self, node: ast.AST, found: str, todo: str = "") -> ConfigError:
        """Return the error for a construct that is not config data."""
        return ConfigError(
            f"{self.file}:{getattr(node, 'lineno', 0)}: {found}. A config is data and its code is "
            "never run; expected assignments of literals, dict(...), names, arithmetic, comprehensions or "
            f"x.update(...). {todo or 'Write the value out instead.'}"
        )

    def evaluate(self, node: ast.expr) -> Traced:
        """Return the value of an expression and its origins.

        Raises:
            ConfigError: the expression is not in the closed set, or it fails (its line and reason are named).
        """
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise self.error(node, f"this config needs more than {MAX_STEPS} evaluation steps")
        handler = getattr(self, f"_eval_{type(node).__name__.lower()}", None)
        if handler is None:
            raise self.error(node, f"found {_describe(node)}")
        try:
            result: Traced = handler(node)
        except (TypeError, ValueError, KeyError, IndexError, ArithmeticError, RecursionError) as problem:
            reason = f"{type(problem).__name__}: {problem}"
            raise self.error(
                node, f"cannot evaluate {_describe(node)} ({reason})", "Correct it."
            ) from problem
        return result

    def value(self, node: ast.expr) -> Any:
        """Return the value of an expression."""
        return self.evaluate(node)[0]

    def _origin(self, node: ast.expr) -> Origin:
        return Origin(self.file, node.lineno)

    def _eval_constant(self, node: ast.Constant) -> Traced:
        value = node.value
        if isinstance(value, str) and BASE_MARKER in value:
            if not value.startswith(BASE_MARKER):
                raise self.error(node, "found {{_base_...}} inside a longer string", "Let it stand alone.")
            return self._from_base(node, value[len(BASE_MARKER) :].split("."))
        if value is not None and not isinstance(value, (bool, int, float, str)):
            raise self.error(node, f"found a {type(value).__name__} constant")
        return value, self._origin(node)

    def _from_base(self, node: ast.expr, path: list[str]) -> Traced:
        value, tree = self.base
        for key in path:
            if not isinstance(value, dict) or key not in value:
                raise self.error(node, f"no base file gives _base_.{'.'.join(path)}", "Correct the name.")
            value, tree = value[key], subtree(tree, key)
        return value, tree

    def _eval_name(self, node: ast.Name) -> Traced:
        if node.id in self.scope:
            return self.scope[node.id]
        if node.id in CONSTANTS:
            return CONSTANTS[node.id], self._origin(node)
        todo = "Assign it above this line in the same file ({{_base_.name}} reads a base's)."
        raise self.error(node, f"the name '{node.id}' is not defined", todo)

    def _eval_attribute(self, node: ast.Attribute) -> Traced:
        path: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            path.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and inner.id == "_base_":
            return self._from_base(node, path)
        raise self.error(node, f"found {_describe(node)}")

    def _eval_list(self, node: ast.List | ast.Tuple) -> Traced:
        values: list[Any] = []
        trees: dict[Any, Tree] = {}
        for element in node.elts:
            if isinstance(element, ast.Starred):
                value, tree = self.evaluate(element.value)
                spread = expanded(value := list(value), tree)
                trees |= {len(values) + i: spread[i] for i in range(len(value))}
                values += value
            else:
                value, trees[len(values)] = self.evaluate(element)
                values.append(value)
        result = values if isinstance(node, ast.List) else tuple(values)
        return result, trees or self._origin(node)

    _eval_tuple = _eval_list

    def _eval_dict(self, node: ast.Dict) -> Traced:
        values: dict[Any, Any] = {}
        trees: dict[Any, Tree] = {}
        for key_node, value_node in zip(node.keys, node.values, strict=True):
            value, tree = self.evaluate(value_node)
            if key_node is None:
                values |= value
                trees |= expanded(value, tree)
            else:
                key = scalar_key(self.value(key_node))
                values[key], trees[key] = value, tree
        return values, trees or self._origin(node)

    def _eval_call(self, node: ast.Call) -> Traced:
        if isinstance(node.func, ast.Name) and node.func.id not in self.scope:
            if node.func.id == "dict":
                return self._call_dict(node)
            if node.func.id in BUILTINS:
                arguments, keywords = self._arguments(node)
                return bounded_result(BUILTINS[node.func.id](*arguments, **keywords)), self._origin(node)
        if isinstance(node.func, ast.Attribute):
            owner = self.value(node.func.value)
            method = METHODS.get(type(owner), {}).get(node.func.attr)
            if method is not None:
                arguments, keywords = self._arguments(node)
                return method(owner, *arguments, **keywords), self._origin(node)
        raise self.error(node, f"found a call of {_describe(node.func)}")

    def _arguments(self, node: ast.Call) -> tuple[list[Any], dict[str, Any]]:
        arguments = whole_bounded(
            self._eval_list(ast.copy_location(ast.List(elts=node.args, ctx=ast.Load()), node))[0]
        )
        return arguments, self._call_dict(node, keywords_only=True)[0]

    def _call_dict(self, node: ast.Call, *, keywords_only: bool = False) -> Traced:
        values: dict[Any, Any] = {}
        trees: dict[Any, Tree] = {}
        if not keywords_only:
            for argument in node.args[:1]:
                value, tree = self.evaluate(argument)
                values = dict(whole_bounded(value))
                trees = (
                    expanded(value, tree)
                    if isinstance(value, dict)
                    else dict.fromkeys(values, self._origin(node))
                )
            if len(node.args) > 1:
                raise TypeError("dict takes one positional argument")
        named: set[str] = set()
        for keyword in node.keywords:
            value, tree = self.evaluate(keyword.value)
            new = {keyword.arg: value} if keyword.arg is not None else dict(value)
            if repeated := named & new.keys():
                raise self.error(keyword.value, f"the key '{repeated.pop()}' is given twice", "Remove one.")
            named |= new.keys()
            values |= new
            trees |= {keyword.arg: tree} if keyword.arg is not None else expanded(value, tree)
        return values, trees or self._origin(node)

    def _eval_binop(self, node: ast.BinOp) -> Traced:
        (left, left_tree), (right, right_tree) = self.evaluate(node.left), self.evaluate(node.right)
        return self.combine(node, node.op, (left, left_tree), (right, right_tree))

    def combine(self, node: ast.AST, op: ast.operator, left: Traced, right: Traced) -> Traced:
        """Return ``left op right`` with bounded size; concatenation keeps the origin of every element."""
        if type(op) not in BINARY:
            raise self.error(node, f"found the operator {type(op).__name__}")
        check_operands(op, left[0], right[0])
        value = BINARY[type(op)](left[0], right[0])
        if isinstance(value, (list, tuple)) and isinstance(op, ast.Add):
            shifted = {len(left[0]) + i: tree for i, tree in expanded(right[0], right[1]).items()}
            return value, expanded(left[0], left[1]) | shifted
        if isinstance(value, dict):
            return value, expanded(left[0], left[1]) | expanded(right[0], right[1])
        return value, Origin(self.file, getattr(node, "lineno", 0))

    def _eval_unaryop(self, node: ast.UnaryOp) -> Traced:
        if type(node.op) not in UNARY:
            raise self.error(node, f"found the operator {type(node.op).__name__}")
        return UNARY[type(node.op)](self.value(node.operand)), self._origin(node)

    def _eval_boolop(self, node: ast.BoolOp) -> Traced:
        stop_at = isinstance(node.op, ast.Or)
        result = self.evaluate(node.values[0])
        for operand in node.values[1:]:
            if bool(result[0]) == stop_at:
                break
            result = self.evaluate(operand)
        return result

    def _eval_compare(self, node: ast.Compare) -> Traced:
        left = whole_bounded(self.value(node.left))
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            right = whole_bounded(self.value(right_node))
            if not COMPARE[type(op)](left, right):
                return False, self._origin(node)
            left = right
        return True, self._origin(node)

    def _eval_ifexp(self, node: ast.IfExp) -> Traced:
        return self.evaluate(node.body if self.value(node.test) else node.orelse)

    def _eval_subscript(self, node: ast.Subscript) -> Traced:
        owner, tree = self.evaluate(node.value)
        if isinstance(node.slice, ast.Slice):
            bounds = slice(
                *(self.value(b) if b else None for b in (node.slice.lower, node.slice.upper, node.slice.step))
            )
            if isinstance(owner, str):
                return owner[bounds], self._origin(node)
            trees = expanded(owner, tree)
            return owner[bounds], dict(
                enumerate(trees[i] for i in range(len(owner))[bounds])
            ) or self._origin(node)
        key = scalar_key(self.value(node.slice))
        if isinstance(owner, (list, tuple)) and isinstance(key, int) and key < 0:
            key += len(owner)
            if key < 0:
                raise IndexError("list index out of range")
        return owner[key], self._origin(node) if isinstance(owner, str) else subtree(tree, key)

    def _eval_joinedstr(self, node: ast.JoinedStr) -> Traced:
        return "".join(str(self.value(part)) for part in node.values), self._origin(node)

    def _eval_formattedvalue(self, node: ast.FormattedValue) -> Traced:
        spec = self.value(node.format_spec) if node.format_spec else ""
        if not FORMAT_SPEC.fullmatch(spec):
            raise self.error(node, f"found the format '{spec}'")
        value = whole_bounded(self.value(node.value))
        if node.conversion != -1:  # !s, !r or !a
            value = _CONVERSIONS[chr(node.conversion)](value)
        return format(value, spec), self._origin(node)

    def _eval_listcomp(self, node: ast.ListComp) -> Traced:
        values: list[Any] = []
        trees: dict[Any, Tree] = {}
        for _ in self._iterate(node.generators):
            value, trees[len(values)] = self.evaluate(node.elt)
            values.append(value)
        return values, trees or self._origin(node)

    _eval_generatorexp = _eval_listcomp

    def _eval_dictcomp(self, node: ast.DictComp) -> Traced:
        values: dict[Any, Any] = {}
        trees: dict[Any, Tree] = {}
        for _ in self._iterate(node.generators):
            key = scalar_key(self.value(node.key))
            values[key], trees[key] = self.evaluate(node.value)
        return values, trees or self._origin(node)

    def _iterate(self, generators: list[ast.comprehension]) -> Iterator[None]:
        """Bind the loop variables of a comprehension, one combination after the other; then unbind them."""
        if not generators:
            yield
            return
        first, outer = generators[0], self.scope
        values, tree = self.evaluate(first.iter)
        for index, item in enumerate(list(values)):
            self.scope = dict(outer)
            at = subtree(tree, index) if isinstance(values, (list, tuple)) else self._origin(first.iter)
            self.bind(first.target, item, at)
            if all(self.value(test) for test in first.ifs):
                yield from self._iterate(generators[1:])
        self.scope = outer

    def bind(self, target: ast.expr, value: Any, tree: Tree) -> None:
        """Assign to a name, a tuple of names, or an element ``x['key']`` of a dict or list."""
        if isinstance(target, ast.Name):
            self.scope[target.id] = (value, tree)
        elif isinstance(target, (ast.Tuple, ast.List)):
            items = list(value)
            if len(items) != len(target.elts):
                raise self.error(
                    target, f"{len(target.elts)} names are given {len(items)} values", "Correct it."
                )
            for index, (name, item) in enumerate(zip(target.elts, items, strict=True)):
                self.bind(name, item, subtree(tree, index))
        elif isinstance(target, ast.Subscript) and not isinstance(target.slice, ast.Slice):
            owner, trees = self.evaluate(target.value)
            key = scalar_key(self.value(target.slice))
            owner[key] = value
            if isinstance(trees, dict):
                trees[key + len(owner) if isinstance(key, int) and key < 0 else key] = tree
            elif isinstance(target.value, ast.Name):
                self.scope[target.value.id] = (owner, {**expanded(owner, trees), key: tree})
        else:
            raise self.error(target, f"found an assignment to {_describe(target)}")


def _describe(node: ast.AST) -> str:
    text = ast.unparse(node).replace("\n", " ")
    return f"'{text if len(text) <= 60 else text[:57] + '...'}' ({type(node).__name__})"
