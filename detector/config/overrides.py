"""Overrides of config values: the ``--cfg-options`` grammar, and a report of what had no effect."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from detector.config.merge import DELETE_KEY, merge
from detector.config.origin import Origin, Tree
from detector.errors import ConfigError

OPTION = Origin("--cfg-options", 0)
_BRACKETS = {"(": ")", "[": "]"}


def parse_options(options: Iterable[str] | None, *, argument: str = OPTION.file) -> dict[str, Any]:
    """Parse ``key=value`` strings as MMDetection's ``--cfg-options`` does.

    The first ``=`` splits. A value is an int, a float, true/false in any case, None, or else a string;
    ``a,b`` and ``[a,b]`` are lists, ``(a,b)`` is a tuple, nesting is allowed, quotes around a value are
    stripped, spaces are removed.

    Args:
        options: the strings.
        argument: which argument they are of, for errors.

    Raises:
        ConfigError: no ``=``, no key, or brackets that do not match.
    """
    parsed: dict[str, Any] = {}
    for option in options or ():
        key, equals, text = option.partition("=")
        if not equals or not key.strip() or any(not part for part in key.strip().split(".")):
            raise ConfigError(
                f"{argument}: found '{option}'; expected key=value with dots between the key's parts, "
                "such as optimizer.lr=0.01. Put no space around the '='."
            )
        try:
            parsed[key.strip()] = parse_value(text)
        except ConfigError as error:
            raise ConfigError(f"{argument}: {error}") from error
    return parsed


def parse_value(text: str) -> Any:
    """Parse one value of the ``--cfg-options`` grammar."""
    text = text.strip("'\"").replace(" ", "")
    parts = _split(text)
    if parts == [text] and text and text[0] in _BRACKETS and text[-1] == _BRACKETS[text[0]]:
        inner = [parse_value(part) for part in _split(text[1:-1])] if len(text) > 2 else []
        return tuple(inner) if text[0] == "(" else inner
    if parts != [text]:
        return [parse_value(part) for part in parts]
    return _scalar(text)


def _split(text: str) -> list[str]:
    """Split at the commas outside of brackets; a trailing comma adds no part but makes a list of one."""
    parts, open_brackets, start = [], [], 0
    for position, character in enumerate(text):
        if character in _BRACKETS:
            open_brackets.append(_BRACKETS[character])
        elif character in _BRACKETS.values():
            if not open_brackets or open_brackets.pop() != character:
                raise _unbalanced(text)
        elif character == "," and not open_brackets:
            parts.append(text[start:position])
            start = position + 1
    if open_brackets:
        raise _unbalanced(text)
    if start < len(text) or not parts:
        parts.append(text[start:])
    return parts


def _unbalanced(text: str) -> ConfigError:
    return ConfigError(
        f"the brackets of '{text}' do not match; expected one ')' or ']' for each '(' or '['. "
        "Quote the value if your shell changes it."
    )


def _scalar(text: str) -> Any:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            pass
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return None if text == "None" else text


def apply_options(
    data: dict[str, Any], tree: Tree, options: Mapping[str, Any], *, known: frozenset[str]
) -> tuple[dict[str, Any], Tree, tuple[str, ...]]:
    """Return data and origins with dotted overrides applied, and a note for each that had no effect.

    Args:
        data: the config, with every intermediate variable of the files.
        tree: its origins.
        options: {dotted key: value}; a digit addresses an element of a list.
        known: top-level keys that mean something even if the config does not give them.

    Raises:
        ConfigError: an unknown top-level key, a dict over a scalar, an index outside of its list, or two
            overrides that contradict each other.
    """
    for key in options:
        _check_top_level(key, data, known)
    merged, merged_tree = merge(_nested(options), (data, tree), into_lists=True)
    notes = [note for key, value in options.items() if (note := _without_effect(key, value, data, known))]
    return merged, merged_tree, tuple(notes)


def _check_top_level(key: str, data: dict[str, Any], known: frozenset[str]) -> None:
    top = key.split(".")[0]
    if top in data or top in known:
        return
    near = difflib.get_close_matches(top, sorted(known | data.keys()), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"this config gives {', '.join(sorted(data))}."
    raise ConfigError(
        f"--cfg-options: found '{key}', but there is no top-level key '{top}'; {hint} Correct the option."
    )


def _nested(options: Mapping[str, Any]) -> tuple[dict[str, Any], Tree]:
    """Turn {'a.b': 1} into {'a': {'b': 1}}."""
    root: dict[str, Any] = {}
    for key, value in options.items():
        *parents, last = key.split(".")
        at = root
        for parent in parents:
            at = at.setdefault(parent, {})
            if not isinstance(at, dict):
                raise ConfigError(
                    f"--cfg-options: '{key}' reaches into a value that another option gives. Remove one of "
                    "the two."
                )
        if isinstance(at.get(last), dict):
            raise ConfigError(
                f"--cfg-options: '{key}' replaces what another option reaches into. Remove one of the two."
            )
        at[last] = value
    return root, OPTION


def _without_effect(key: str, value: Any, data: dict[str, Any], known: frozenset[str]) -> str | None:
    """Say why an override has no effect, None if it has one (or may have)."""
    parts = key.split(".")
    if parts[-1] == DELETE_KEY:
        return None
    if parts[0] not in known:
        return (
            f"--cfg-options {key} changes nothing: '{parts[0]}' is a variable of the config file that is "
            "used only while it is read. Override the values it went into (detector print-config shows them)."
        )
    old: Any = data
    for depth, part in enumerate(parts):
        if isinstance(old, (list, tuple)):
            old = old[int(part)]
        elif isinstance(old, dict) and part in old:
            old = old[part]
        else:
            return _new_key(
                key, part, list(old) if isinstance(old, dict) else [], last=depth == len(parts) - 1
            )
    if same(old, value):
        return f"--cfg-options {key} changes nothing: the config already gives {value!r}."
    return None


def _new_key(key: str, part: str, siblings: list[str], *, last: bool) -> str | None:
    near = difflib.get_close_matches(part, [str(s) for s in siblings], n=1, cutoff=0.75)
    if not near:
        return None
    what = "key" if last else "dict"
    return f"--cfg-options {key} adds the new {what} '{part}' beside the existing '{near[0]}': is that meant?"


def same(a: Any, b: Any) -> bool:
    """Return whether two config values are equal in value and type, apart from int and float."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)) and type(a) is type(b):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    return bool(a == b)
