"""The one way from a config's name, path or text to its effective values."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detector.config.origin import Origin, flattened
from detector.config.overrides import apply_options
from detector.config.read import Source, read_file, read_text
from detector.config.references import move_data_root, substitute_references
from detector.config.resolve import resolve_config
from detector.config.run_settings import KNOWN_KEYS, check_names, normalise
from detector.config.text import digest, format_config

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """Effective values of a config.

    Attributes:
        name: the file's stem.
        path: the file.
        data: nested dicts, lists and tuples of plain values; run-level keys normalised (``run_settings.py``),
            the model part as written in MMDetection's dialect.
        origins: dotted key -> file and line, for every leaf.
        notes: what the user should know: overrides without effect, legacy keys rewritten, imports that are
            not run.
        files: every file read, bases first.
    """

    name: str
    path: Path
    data: dict[str, Any]
    origins: dict[str, Origin] = field(repr=False)
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the data as Python text that ``config_from_text`` reads back to the same values."""
        return format_config(self.data)

    def sha256(self, *keys: str) -> str:
        """Return a digest of the given top-level sections that exist; of everything if none is given."""
        return digest({key: self.data[key] for key in (keys or self.data) if key in self.data})


def load_config(name_or_path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file, its bases and the overrides, and normalise its run-level keys.

    Args:
        name_or_path: what ``resolve_config`` accepts.
        options: {dotted key: value}, as ``parse_options`` returns them.

    Raises:
        ConfigError: the config cannot be found or read, or an override does not fit.
    """
    path = resolve_config(name_or_path)
    return _effective(read_file(path), name=path.stem, path=path, options=options)


def config_from_text(
    text: str, *, name: str = "<text>", options: Mapping[str, Any] | None = None, suffix: str = ".py"
) -> Config:
    """Return the config of a text in memory, such as ``meta['config']`` of a checkpoint."""
    source = read_text(text, name=name, suffix=suffix)
    return _effective(source, name=name, path=Path(name), options=options)


def _effective(source: Source, *, name: str, path: Path, options: Mapping[str, Any] | None) -> Config:
    data, tree = substitute_references(source.data, source.tree)
    data, tree, moved = move_data_root(data, tree, os.environ)
    data, tree, without_effect = apply_options(data, tree, options or {}, known=KNOWN_KEYS)
    check_names(data, tree)
    data, tree, rewritten = normalise(data, tree)
    for note in (*source.notes, *moved, *without_effect):
        logger.warning("%s", note)
    notes = (*source.notes, *moved, *without_effect, *rewritten)
    return Config(
        name=name, path=path, data=data, origins=flattened(data, tree), notes=notes, files=source.files
    )
