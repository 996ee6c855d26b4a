"""The pictures of validation images that a training draws at each evaluation, shown in MLflow by step."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.tracking.session import Session

FOLDER = "val_samples"  # of a work_dir; below it a folder per evaluation, named <unit>_<number>
SETTLED = "done"  # a file in such a folder: all its pictures are whole


def send(session: Session) -> None:
    """Send the pictures of every evaluation that has drawn all of its own, each once.

    MLflow gives each a name with a random part, so a picture whose sending broke off is looked for first.
    """
    for folder, step in evaluations(session.folder / FOLDER):
        what = f"pictures/{folder.name}"
        if session.file.sent.get(what) == "sent":
            continue
        there = _there(session) if session.file.sent.get(what) else set()
        session.once(what, "begun", lambda: None)
        for path in sorted(folder.glob("*.png")):
            if (_key(path), step) not in there:
                _send(session, path, step)
        session.once(what, "sent", lambda: None)


def evaluations(folder: Path) -> Iterator[tuple[Path, int]]:
    """(folder, number) of every evaluation whose pictures are whole, in order."""
    found = [(path, re.fullmatch(r"[a-z]+_(\d+)", path.name)) for path in folder.glob("*_*")]
    numbered = [(path, int(match[1])) for path, match in found if match and (path / SETTLED).is_file()]
    yield from sorted(numbered, key=lambda one: one[1])


def _key(path: Path) -> str:
    return f"val/{re.sub(r'[^a-zA-Z0-9_. -]', '_', path.stem)}"


def _send(session: Session, path: Path, step: int) -> None:
    from PIL import Image

    moment = int(path.stat().st_mtime * 1000)
    with Image.open(path) as image:
        session.client.log_image(
            session.file.run_id, image, key=_key(path), step=step, timestamp=moment, synchronous=True
        )


def _there(session: Session) -> set[tuple[str, int]]:
    """(key, step) of the pictures that a run has, by MLflow's names ``<key>+step+<step>+…+compressed.webp``.

    The small copy counts, as it is sent last.
    """
    found = set()
    for item in session.client.list_artifacts(session.file.run_id, "images"):
        parts = Path(item.path).name.split("+")
        if len(parts) > 2 and parts[-1] == "compressed.webp" and parts[2].isdigit():
            found.add((parts[0].replace("~", "/"), int(parts[2])))
    return found
