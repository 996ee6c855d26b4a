"""Step `prepare`: bring a data set's files into the store and link its parts below ``data/<name>``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.request import DATA_ROOT, DataRequest
from tasks.steps import Job, Step, cpu_count


def run(job: Job, request: DataRequest) -> dict[str, Any]:
    """Download or generate what is missing in the store, link it, and describe it in ``source.json``."""
    from detector.data.download import Bars, download, link

    store = request.store_path
    with Bars() as bars:
        place = download(request.dataset, store, processes=cpu_count(), progress=bars)
    job.log(f"prepare: {request.dataset} is in {place}")
    links = link(request.dataset, store, data_root=DATA_ROOT)
    return {"store": str(place), "files": _count(place), "links": [path.as_posix() for path in links]}


def written(value: Mapping[str, Any]) -> list[Path]:
    """The links, and what the store says about files that were drawn or downloaded."""
    from detector.data.download.store import STAMP

    stamp = Path(value["store"]) / STAMP
    links = [path for path in map(Path, value["links"]) if path.is_symlink()]
    return [*links, stamp] if stamp.is_file() else links


def recheck(value: Mapping[str, Any]) -> str:
    """Whether the store was emptied or filled since."""
    found = _count(Path(value["store"]))
    same = found == value["files"]
    return "" if same else f"{value['store']} holds {found} files instead of {value['files']}"


def _count(place: Path) -> int:
    from detector.data.download.store import count_files

    return count_files(place)


def inputs(request: DataRequest) -> dict[str, Any]:
    """The recipe of the data set and the place of its files."""
    return {"dataset": request.dataset, "store": str(request.store_path), "recipe": request.recipe()}


def source(request: DataRequest) -> Path:
    """The file that says where the data came from."""
    return request.root / "source.json"


STEP: Step[DataRequest] = Step(
    name="prepare",
    run=run,
    inputs=inputs,
    outputs=lambda request: [source(request)],
    extra=written,
    recheck=recheck,
    versions=("numpy", "opencv-python"),
)
