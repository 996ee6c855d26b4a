"""The ``classes`` key of a dataset: what it may be, and the names it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detector.errors import ConfigError, DatasetError


def read_classes(classes: str | Sequence[str], *, where: str) -> tuple[str, ...]:
    """Names from a sequence, from a file with one name per line, or a single name.

    Args:
        classes: names; or a path of a text file; or one class name, ``'cell'`` or ``('cell')``.
        where: dotted path, for errors.

    Raises:
        DatasetError: the file does not exist.
        ConfigError: no names, equal names, or something else than names.
    """
    if isinstance(classes, str):
        names = _from_text(classes, where)
    elif isinstance(classes, Sequence) and all(isinstance(name, str) for name in classes):
        names = list(classes)
    else:
        raise ConfigError(f"{where} is {classes!r}; expected names, a text file of names, or one name.")
    if not names:
        raise ConfigError(f"{where} names no class; expected at least one.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{where} lists {twice[0]!r} more than once; every class needs its own name.")
    return tuple(names)


def _from_text(text: str, where: str) -> list[str]:
    path = Path(text)
    if path.is_file():
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if path.suffix in (".txt", ".names", ".csv") or "/" in text:
        raise DatasetError(
            f"{where} is {text!r}, which looks like a file of class names, and no such file exists. "
            "Correct the path, or give the names themselves: classes=('a', 'b')."
        )
    return [text] if text.strip() else []
