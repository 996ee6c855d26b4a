"""COCO-format annotation files (COCO's, LVIS') to where a project's configs look for them.

They lie in the store as they were downloaded, linked as ``source_annotations``; a project has its own copies
in ``annotations``, as of every other data set, because those are a stage output of the pipeline and no link.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from detector.data.converters.documents import Note, existing_folder, note_to_log, raise_problems
from detector.whole_files import replacing

SOURCE_FOLDER = "source_annotations"
_ENDS = 4096  # bytes looked at on both sides of a file


def convert(
    root: str | Path,
    *,
    out_dir: str | Path | None = None,
    keep: bool = False,
    progress: Callable[[int, int], None] | None = None,
    note: Note = note_to_log,
) -> list[Path]:
    """Copy every annotation file that is whole.

    Args:
        root: a linked data set with the folder ``source_annotations``, or a folder of JSON files.
        out_dir: where the files go; by default ``annotations`` beside ``source_annotations``.
        keep: leave files of the same name as they are, instead of replacing them.
        progress: called with (files done, files in all).
        note: called with one line per file.

    Returns:
        The files in ``out_dir``, those kept included.

    Raises:
        DatasetError: there are no JSON files, files are cut off, or ``out_dir`` is their own folder.
    """
    root = Path(root)
    linked = root / SOURCE_FOLDER
    source = linked if linked.exists() or linked.is_symlink() else root
    existing_folder(source, f"{SOURCE_FOLDER} or COCO-format files", "Link the data set first.")
    out = Path(out_dir) if out_dir is not None else root / "annotations"
    files = sorted(path for path in source.glob("*.json") if path.is_file())
    raise_problems(source, _problems(source, files, out), "Correct it, or download the data set again.")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for done, path in enumerate(files, start=1):
        target = out / path.name
        if keep and target.exists():
            other = target.stat().st_size != path.stat().st_size
            instead = f", another file; `detector convert coco {root}` replaces it" if other else ""
            note(f"{path.name}: already there{instead} -> {target}")
        else:
            with path.open("rb") as content, replacing(target) as stream:
                shutil.copyfileobj(content, stream, 1 << 20)
            note(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB -> {target}")
        written.append(target)
        if progress is not None:
            progress(done, len(files))
    return written


def annotate_linked(root: str | Path, *, note: Note = note_to_log) -> list[Path]:
    """Give a data set that was just linked its ``annotations``, where no conversion is needed; else say how.

    Files that are there already stay.

    Args:
        root: the linked data set, such as ``data/coco``.
        note: called with one line per file, or with what to type.

    Returns:
        The annotation files of COCO's format that came linked.

    Raises:
        DatasetError: as ``convert``.
    """
    root = Path(root)
    linked, out = root / SOURCE_FOLDER, root / "annotations"
    if linked.exists() and out.resolve() == linked.resolve():
        note(f"annotations: {out} leads to the same files and stays; the pipeline wants a folder there")
        return sorted(out.glob("*.json"))
    if linked.exists():
        return convert(root, keep=True, note=note)
    if (root / "gtFine").exists() and not any(out.glob("*.json")):
        note(f"annotations: type `detector convert cityscapes {root} --out-dir {out}`")
    return []


def _problems(source: Path, files: Sequence[Path], out: Path) -> list[str]:
    """What keeps the files from being used."""
    if not files:
        return ["found no *.json, expected COCO-format annotation files"]
    if out.resolve() == source.resolve():
        return [f"{out} is the folder of the files itself, expected another one"]
    return [f"{path.name} is cut off or no JSON object" for path in files if not _whole(path)]


def _whole(path: Path) -> bool:
    """Whether a file begins and ends as a JSON object does; its content is for the reader to check."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        begin = stream.read(_ENDS).lstrip(b"\xef\xbb\xbf \t\r\n")
        stream.seek(max(0, size - _ENDS))
        end = stream.read().rstrip()
    return begin.startswith(b"{") and end.endswith(b"}")
