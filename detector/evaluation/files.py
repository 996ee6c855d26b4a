"""Whole files or none: content is written to a temporary sibling, synced, then renamed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detector.whole_files import replacing


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file that appears whole; missing folders are made. Returns the path."""
    path = Path(path)
    with replacing(path) as stream:
        stream.write(content)
    return path


def write_json(path: str | Path, content: Any) -> Path:
    """Write compact JSON; NaN is refused."""
    return write_bytes(path, json.dumps(content, allow_nan=False, separators=(",", ":")).encode())
