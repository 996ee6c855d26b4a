"""`detector check-submission` as a user types it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detector.cli import main


def run(capsys: pytest.CaptureFixture[str], path: Path, *words: Any) -> tuple[int, str]:
    """Exit code of the command and what it printed."""
    code = main(["check-submission", str(path), *map(str, words)])
    return code, capsys.readouterr().out
