"""Step `convert`: COCO annotations in ``data/<name>/annotations`` from the data set's own format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detector.cores import cpu_count
from detector.errors import DatasetError
from detector.progress import Progress
from tasks.digests import DigestCache, listing
from tasks.request import DataRequest, check_recorded
from tasks.steps import Job, Step

# Format -> parts below data/<name> whose content decides, and parts of which file names and sizes decide.
LAYOUTS = {
    "cityscapes": (("gtFine",), ("leftImg8bit",)),
    "voc": (("Annotations", "ImageSets"), ("JPEGImages",)),
    "devkit": (("VOCdevkit",), ()),
    "coco": (("source_annotations",), ()),
}


def layout(request: DataRequest) -> str:
    """The format of the linked data set, told by its parts.

    Raises:
        DatasetError: nothing is linked, a link is broken, or the parts are of no known format.
    """
    for name, (read, listed) in LAYOUTS.items():
        if all((request.root / part).exists() for part in (*read, *listed)):
            return name
    found = sorted(path.name for path in request.root.glob("*")) if request.root.is_dir() else []
    broken = [name for name in found if not (request.root / name).exists()]
    expected = "; ".join(
        f"{' and '.join((*read, *listed))} ({name})" for name, (read, listed) in LAYOUTS.items()
    )
    raise DatasetError(
        f"{request.root}: found {found or 'nothing'}{f' ({broken} are broken links)' if broken else ''}; "
        f"expected one of: {expected}. Type `python -m tasks prepare --dataset {request.dataset}` to fetch "
        "and link the data set."
    )


def run(job: Job, request: DataRequest) -> dict[str, Any]:
    """Write the annotation files of every split that the data set has."""
    out = annotations_dir(request)
    _clear(out)
    written = _convert(job, request, layout(request), out)
    job.log(f"convert: {len(written)} files in {out}")
    return {"files": [path.as_posix() for path in written]}


def _convert(job: Job, request: DataRequest, kind: str, out: Path) -> Sequence[Path]:
    from detector.data.converters import cityscapes_to_coco, coco_files, voc_to_coco

    if kind == "coco":
        return coco_files.convert(request.root, out_dir=out, note=job.log)
    convert = cityscapes_to_coco.convert if kind == "cityscapes" else voc_to_coco.convert
    root = request.root / "VOCdevkit" if kind == "devkit" else request.root
    with Progress(None, f"convert {request.dataset}") as progress:
        return convert(root, out_dir=out, nproc=cpu_count(), progress=progress, note=job.log)


def _clear(folder: Path) -> None:
    """An empty folder; nobody's files are deleted through a link.

    Raises:
        DatasetError: the folder is a link.
    """
    if folder.is_symlink():
        raise DatasetError(
            f"{folder}: found a link to {folder.readlink()}, expected a folder or nothing, because converted "
            "files go there. Remove the link; the place it names stays."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.json"):
        path.unlink()


def annotations_dir(request: DataRequest) -> Path:
    """The folder of the COCO files."""
    return request.root / "annotations"


def inputs(request: DataRequest) -> dict[str, Any]:
    """Digests of the annotations' content and of the names and sizes of the images."""
    kind = layout(request)
    read, listed = LAYOUTS[kind]
    cache = DigestCache()
    contents = {request.root / part: cache.contents(request.root / part) for part in read}
    check_recorded(contents)
    return {
        "format": kind,
        "read": {path.name: found.digest for path, found in contents.items()},
        "listed": {part: listing(request.root / part) for part in listed},
    }


STEP: Step[DataRequest] = Step(
    name="convert",
    run=run,
    inputs=inputs,
    outputs=lambda request: [annotations_dir(request)],
    versions=("numpy", "opencv-python", "pycocotools", "pillow", "cityscapesScripts"),
)
