"""Checks of single settings, shared by the readers of a config's sections."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from detector.errors import ConfigError


def unknown_name(where: str, found: str, accepted: Iterable[str]) -> ConfigError:
    """Error for a name outside a closed set, with the nearest one."""
    names = list(accepted)
    near = difflib.get_close_matches(found, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"{where}: found {found!r}; expected one of {', '.join(map(repr, names))}.{hint}")


def check_keys(where: str, found: Mapping[str, Any], accepted: Iterable[str]) -> None:
    """Raise a ConfigError for the first key of ``found`` that is not in ``accepted``."""
    names = list(accepted)
    for key in found:
        if key not in names:
            raise unknown_name(f"{where}.{key}", key, names)


def positive(where: str, value: Any) -> int:
    """``value`` as an int above 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{where}: found {value!r}; expected a whole number above 0.")
    return value


def whole(where: str, value: Any) -> int:
    """``value`` as an int."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{where}: found {value!r}; expected a whole number. Write it without quotes.")
    return value
