"""Checkpoints by a name that something outside this library knows, such as ``models:/mask_rcnn@best``.

Whoever knows names of a scheme says so by an entry point of the group GROUP: its name is the scheme, and it
is a function of the whole name that returns the file. This library asks it and loads the file like any other.
"""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from detector.errors import CheckpointError

GROUP = "detector.weights"
_NAME = re.compile(r"([a-z][a-z0-9+.-]+):/(?!/)", re.IGNORECASE)  # one slash: web addresses have two


def is_registered(name: Any) -> bool:
    """Whether something is such a name: not a path, an address or a config."""
    return isinstance(name, str) and _NAME.match(name) is not None


def registered(name: str) -> Path:
    """The checkpoint of a registered name.

    Raises:
        CheckpointError: nobody here knows names of this scheme, or the one who does has no such checkpoint.
    """
    scheme = name.partition(":")[0].lower()
    known = {entry.name: entry for entry in _entries()}
    if scheme not in known:
        raise CheckpointError(
            f"{name}: nothing that is installed knows names that start with {scheme}:/; expected one of "
            f"{', '.join(f'{other}:/' for other in sorted(known)) or '(none)'}. Install the project again so "
            "that its entry points are known (`uv sync`), or give the path of a checkpoint."
        )
    return Path(known[scheme].load()(name))


def _entries() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))
