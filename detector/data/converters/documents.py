"""What the converters share: whole files, problems named together, notes for the user."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from detector.errors import DatasetError
from detector.naming import close_names
from detector.whole_files import replacing

Note = Callable[[str], None]
# A longer list of problems helps nobody.
SHOWN_PROBLEMS = 8


def note_to_log(line: str) -> None:
    """Where a converter's notes go when the caller names no place."""
    logging.getLogger("detector.data.converters").info(line)


def write_document(path: Path, document: Any) -> Path:
    """Write a JSON (``.json``) or pickle (``.pkl``) file so that it appears whole.

    Args:
        path: file to write; its folder is made.
        document: plain data; arrays only in a pickle.
    """
    data = pickle.dumps(document, protocol=2) if path.suffix == ".pkl" else json.dumps(document).encode()
    with replacing(path) as file:
        file.write(data)
    return path


def raise_problems(where: Path | str, problems: Sequence[str], advice: str) -> None:
    """Raise one DatasetError that lists the problems; nothing happens without any."""
    if not problems:
        return
    shown = "; ".join(problems[:SHOWN_PROBLEMS])
    more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise DatasetError(f"{where}: {count}: {shown}{more}. {advice}")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as ", did you mean 'car'?", or nothing."""
    close = close_names(name, known, count=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


def existing_folder(path: Path, what: str, advice: str) -> Path:
    """``path`` if it is a folder, else an error that says what it should have been."""
    if path.is_dir():
        return path
    found = "a file" if path.is_file() else "a broken link" if path.is_symlink() else "nothing"
    raise DatasetError(f"{path}: found {found}, expected {what}. {advice}")
