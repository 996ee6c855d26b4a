"""Step `format`: files for a test server from a trained model and a split without ground truth, checked."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.config import load_config
from detector.errors import DatasetError
from tasks.digests import digest
from tasks.request import Request
from tasks.stamping import stamping
from tasks.steps import Job, Step
from tasks.testing import NOT_TESTING, kept, trained

if TYPE_CHECKING:
    from detector.data.datasets.base import DetectionDataset
    from detector.structures.samples import Detections

    Found = Mapping[int | str, Detections]

# Where a data set's configs test on the validation split, the split that its server judges.
TEST_SPLITS: Mapping[str, Mapping[str, str]] = {
    "coco": {
        "data.test.ann_file": "data/coco/annotations/image_info_test-dev2017.json",
        "data.test.img_prefix": "data/coco/test2017/",
    },
    "lvis_v0.5": {
        "data.test.ann_file": "data/lvis_v0.5/annotations/lvis_v0.5_image_info_test.json",
        "data.test.img_prefix": "data/lvis_v0.5/test2017/",
    },
    "lvis_v1": {
        "data.test.ann_file": "data/lvis_v1/annotations/lvis_v1_image_info_test_dev.json",
        "data.test.img_prefix": "data/lvis_v1/",
    },
}
UNREAD = (*NOT_TESTING, "data.val", "data.val_dataloader", "evaluation")  # keys that do not matter here
RESULT_NAMES = {"coco": "detections_test-dev2017_{name}_results"}  # as the COCO server wants them
SERVERS = {"VOC": "voc", "LVIS": "lvis"}  # by kind of data; what has none of its own has COCO's form


def run(job: Job, request: Request) -> dict[str, Any]:
    """Run the model on the test split, write the results in the servers' formats, check and pack them."""
    with stamping("format", job.key, request, digest(inputs(request)["data"])):
        return _run(job, request)


def _run(job: Job, request: Request) -> dict[str, Any]:
    from detector.engine.evaluate import split_dataset, test
    from detector.engine.joined_split import JoinedSplit

    folder = request.run_dir / "submission"
    shutil.rmtree(folder, ignore_errors=True)
    config = load_config(request.loaded.path, {**request.options, **test_split(request)})
    dataset = split_dataset(config, "test")
    job.log(f"format: {request.checkpoint} on {len(dataset)} images")
    found = test(
        config, request.checkpoint, dataset=dataset, split="test",
        score_threshold=request.score_threshold, device=request.device,
    )  # fmt: skip
    results = kept(found, request.score_threshold)
    if isinstance(dataset, JoinedSplit):
        parts = [(folder / str(n), *both) for n, both in enumerate(_pairs(dataset, results))]
    else:
        parts = [(folder, dataset, results)]
    files = [path for place, part, own in parts for path in write(job, request, part, own, place)]
    job.log(f"format: {len(files)} files in {folder}")
    return {"files": [path.as_posix() for path in files]}


def _pairs(dataset: Any, results: Found) -> Iterator[tuple[DetectionDataset, Found]]:
    return zip(dataset.parts, dataset.divide(results), strict=True)


def write(job: Job, request: Request, dataset: DetectionDataset, results: Found, folder: Path) -> list[Path]:
    """Write one data set's files for every server that takes it; returns results files and zips.

    Raises:
        DatasetError: a server would refuse them; says what is wrong.
    """
    from detector.engine.metric_sets import metric_set
    from detector.evaluation.submissions.formats import write_files

    written: list[Path] = []
    server = SERVERS.get(metric_set(dataset).kind, "coco")
    proposals = request.loaded.data["model"].get("type") == "RPN"
    data = request.data.dataset if request.data else ""
    name = RESULT_NAMES.get(data, "{name}").format(name=request.name)
    if server == "voc":
        write_files(results, dataset, txtfile_prefix=folder / server / name)
        written += checked(job, server, dataset, results, folder / server / name)
    else:
        prefix = folder / server / name
        for path in write_files(results, dataset, jsonfile_prefix=prefix, proposals=proposals):
            written += [path, *checked(job, server, dataset, results, path)]
    if takes_cityscapes(dataset, results):
        place = folder / "cityscapes" / request.name
        write_files(results, dataset, txtfile_prefix=place)
        written += checked(job, "cityscapes", dataset, results, place)
    return written


def takes_cityscapes(dataset: DetectionDataset, results: Found) -> bool:
    """Whether Cityscapes' server takes the results: its layout and classes, and masks."""
    from detector.evaluation.submissions.formats import wanted_formats

    with_masks = any(found.masks is not None for found in results.values())
    if not with_masks or Path(dataset.img_prefix).parent.name != "leftImg8bit":
        return False
    try:
        return wanted_formats(dataset, txtfile_prefix="x") == ["cityscapes"]
    except DatasetError:  # classes of one's own
        return False


def checked(job: Job, server: str, dataset: DetectionDataset, results: Found, path: Path) -> list[Path]:
    """Check what was written and return its zip; an empty JSON list has none, as servers cannot read it.

    Raises:
        DatasetError: the server would refuse it.
    """
    from detector.evaluation.submissions.check import check_submission, pack

    is_json = path.suffix == ".json"
    if is_json and not any(len(found) for found in results.values()):
        job.log(f"format: the model found nothing on {len(results)} images; {path} gets no zip")
        return []
    report = check_submission(path, annotations=dataset.ann_file, kind=server, classes=dataset.class_names)
    for line in report.lines():
        job.log(f"format: {line}")
    if not report.fits:
        raise DatasetError(
            f"{path}: the {server} server would refuse these files: {'; '.join(report.findings.lines())}. "
            "Correct the data set's files or the model; what was written stays for a look."
        )
    zipped = path.with_name(f"{path.stem if is_json else path.name}.zip")
    return [zipped if zipped.is_file() else pack(report, zipped)]  # Cityscapes' was written with the files


def test_split(request: Request) -> Mapping[str, str]:
    """Overrides that make the config's test split the server's; none for a list of data sets."""
    test = (request.loaded.data.get("data") or {}).get("test")
    if request.data is None or not isinstance(test, Mapping) or "ann_file" not in test:
        return {}
    return TEST_SPLITS.get(request.data.dataset, {})


def inputs(request: Request) -> dict[str, Any]:
    """The checkpoint, what testing reads of the config, the test data and the threshold."""
    overrides = test_split(request)
    data = (
        request.inputs("test")
        if not overrides
        else request.digests([Path(path) for path in overrides.values()])
    )
    return {
        "checkpoint": trained(request),
        "config": request.settings(without=UNREAD),
        "data": data,
        "score_threshold": request.score_threshold,
    }


def outputs(request: Request) -> list[Path]:
    """The folder of all submissions."""
    return [request.run_dir / "submission"]


STEP: Step[Request] = Step(
    name="format",
    run=run,
    inputs=inputs,
    outputs=outputs,
    details=lambda request: {"config": request.values(without=UNREAD)},
    code=("detector.engine.evaluate",),
    versions=("torch", "torchvision", "numpy", "opencv-python", "pycocotools", "cityscapesScripts"),
)
