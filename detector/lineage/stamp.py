"""The stamp: plain values under fixed keys, and the scope that collects them while a command works.

Keys: ``stamp`` (version of this layout), ``command``, ``code``, ``config``, ``data``, ``checkpoint`` or
``weights_sha256``, ``seeds``, ``options``, ``versions``, ``runs``, ``resumed_from``; one that says nothing is
left out. A stamp names no machine, and no time: equal work gives equal stamps.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

from detector.errors import DetectorError
from detector.lineage.surroundings import code_state, run_ids, versions

Stamp = dict[str, Any]

VERSION = 1
KEY = "lineage"  # in a checkpoint's meta and in json documents
ORDER = (
    *("stamp", "command", "code", "config", "data", "checkpoint", "weights_sha256", "seeds", "options"),
    *("versions", "runs", "resumed_from"),
)
MASK = "***"
_SECRET = re.compile(
    r"(?:^|[._-])(?:password|passwd|pwd|secret(?:[_-]?key)?|(?:api|access|auth)?[_-]?token|"
    r"(?:api|access|private)[_-]?key(?:[_-]?id)?|credentials?)$",
    re.IGNORECASE,
)
_USER_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_SCOPE: ContextVar[Stamp | None] = ContextVar("lineage", default=None)


class LineageError(DetectorError):
    """A file has no stamp, or its stamp does not say enough."""


class ConfigLike(Protocol):
    """What a stamp needs of a config."""

    @property
    def name(self) -> str:
        """The file's stem."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def data(self) -> dict[str, Any]:
        """Effective values."""

    def sha256(self, *keys: str) -> str:
        """Digest of the values."""


@contextlib.contextmanager
def collecting(**facts: Any) -> Iterator[None]:
    """Stamp what is written inside, with these facts and those that ``note`` adds."""
    token = _SCOPE.set({**(_SCOPE.get() or {}), **facts})
    try:
        yield
    finally:
        _SCOPE.reset(token)


def collects() -> bool:
    """Whether facts are wanted; without a scope nothing is stamped and nothing need be hashed."""
    return _SCOPE.get() is not None


def note(**facts: Any) -> None:
    """Add facts to the scope, if there is one."""
    scope = _SCOPE.get()
    if scope is not None:
        scope.update(facts)


def command() -> list[str] | None:
    """The command line that works, if one does."""
    scope = _SCOPE.get()
    return None if scope is None else scope.get("command")


def current() -> Stamp | None:
    """The stamp of what is written now; None outside of every scope."""
    scope = _SCOPE.get()
    if scope is None:
        return None
    if "code" not in scope:  # read once, not for every picture
        scope.update(code=code_state(_config_folder(scope)), versions=versions())
    return build({**scope, "runs": run_ids()})


def build(facts: Mapping[str, Any]) -> Stamp:
    """The stamp of some facts: in a fixed order, without what says nothing, without secrets; pure."""
    known = {**facts, "stamp": VERSION}
    if facts.get("command"):
        known["command"] = masked_arguments(facts["command"])
    return {key: known[key] for key in ORDER if known.get(key) not in (None, {}, [], "")}


def without_text(stamp: Mapping[str, Any]) -> Stamp:
    """A stamp for files that have little room: the config by name and digest only."""
    config = {key: value for key, value in (stamp.get("config") or {}).items() if key != "text"}
    return {**stamp, **({"config": config} if config else {})}


def config_facts(config: ConfigLike) -> dict[str, Any]:
    """Name, place, digest and effective text of a config; ``masked`` names the values that are hidden."""
    from detector.config.text import format_config

    hidden: list[str] = []
    text = format_config(_masked(config.data, "", hidden))
    found = {"name": config.name, "path": shown_path(config.path), "sha256": config.sha256(), "text": text}
    return {**found, "masked": hidden} if hidden else found


def shown_path(path: str | Path) -> str:
    """A path as seen from the working folder where it lies below it, else as given."""
    path = Path(path)
    here = Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)


def masked_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line without the values of options that look like secrets, and users in addresses."""
    shown: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if shown and shown[-1].startswith("--") and is_secret(shown[-1]):
            shown.append(MASK)
        elif equals and value and is_secret(name):
            shown.append(f"{name}={MASK}")
        else:
            shown.append(_USER_IN_ADDRESS.sub(MASK, argument))
    return shown


def is_secret(name: str) -> bool:
    """Whether the last part of a dotted name or option looks like that of a password, token or key."""
    return _SECRET.search(name) is not None


def _masked(value: Any, path: str, hidden: list[str]) -> Any:
    """A copy of config values, secrets hidden; only texts are, as ``with_cls_token=True`` is none."""
    if isinstance(value, Mapping):
        return {key: _masked(item, f"{path}.{key}".lstrip("."), hidden) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_masked(item, f"{path}.{i}", hidden) for i, item in enumerate(value))
    if not isinstance(value, str) or not value:
        return value
    shown = MASK if is_secret(path) else _USER_IN_ADDRESS.sub(MASK, value)
    if shown != value:
        hidden.append(path)
    return shown


def _config_folder(scope: Mapping[str, Any]) -> Path | None:
    path = (scope.get("config") or {}).get("path")
    return Path(path).parent if path else None
