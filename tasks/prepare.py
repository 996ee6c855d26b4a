"""Step `prepare`: bring a data set's files into the store, link its parts below ``data/``, record them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detector.cores import cpu_count
from detector.errors import DatasetError
from tasks import manifests
from tasks.digests import sha256_file
from tasks.request import DATA_ROOT, DataRequest
from tasks.steps import Job, Step, recorded_outputs


def run(job: Job, request: DataRequest) -> dict[str, Any]:
    """Download or generate what is missing in the store, link it, and record what there is."""
    from detector.data.download import Bars, download, link

    store = request.store_path
    with Bars() as bars:
        place = download(request.dataset, store, processes=cpu_count(), progress=bars)
    job.log(f"prepare: {request.dataset} is in {place}")
    links = link(request.dataset, store, data_root=DATA_ROOT)
    record(job, request)
    return {"store": str(place), "files": _count(place), "links": [path.as_posix() for path in links]}


def record(job: Job, request: DataRequest) -> None:
    """Write the manifest of the data set.

    Raises:
        DatasetError: this very step has recorded other files, and nobody has accepted what became of them.
    """
    files = manifests.take(request.root, leave=request.made)
    if request.manifest.is_file():
        drift = manifests.compare(manifests.load(request.manifest), files)
        ours = recorded_outputs(job.key).get(request.manifest.as_posix())
        if (drift.changed or drift.missing) and ours and ours["sha256"] == sha256_file(request.manifest):
            raise DatasetError(manifests.drifted(request.root, request.manifest, drift, request.dataset))
        for line in drift.named():
            job.log(f"prepare: since {request.manifest} was recorded, {line}")
    manifests.save(request.manifest, files)
    job.log(f"prepare: {request.manifest} records {manifests.total(files)}")


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
    outputs=lambda request: [source(request), request.manifest],
    extra=written,
    recheck=recheck,
    versions=("numpy", "opencv-python"),
)
