"""Step `format`: files for a test server from a trained model and a split without ground truth."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detector.config import load_config
from tasks.request import Request
from tasks.steps import Job, Step
from tasks.testing import NOT_TESTING, kept, trained

# Where a data set's configs test on the validation split, the split that its server judges.
TEST_SPLITS: Mapping[str, Mapping[str, str]] = {
    "coco": {
        "data.test.ann_file": "data/coco/annotations/image_info_test-dev2017.json",
        "data.test.img_prefix": "data/coco/test2017/",
    },
}
RESULT_NAMES = {"coco": "detections_test-dev2017_{name}_results"}  # as the COCO server wants them


def run(job: Job, request: Request) -> dict[str, Any]:
    """Run the model on the test split and write the results in the servers' formats."""
    from detector.engine.evaluate import split_dataset, test
    from detector.evaluation.submissions import cityscapes, coco

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
    name = request.data.dataset if request.data else ""
    prefix = folder / "coco" / RESULT_NAMES.get(name, "{name}").format(name=request.name)
    prefix.parent.mkdir(parents=True)
    files = coco.write(results, ann_file=dataset.ann_file, class_names=dataset.class_names, prefix=prefix)
    with_masks = any(item.masks is not None for item in results.values())
    if with_masks and Path(dataset.img_prefix).parent.name == "leftImg8bit":
        out = folder / "cityscapes" / request.name
        files += cityscapes.write(
            results, ann_file=dataset.ann_file, class_names=dataset.class_names, out_dir=out
        )
    job.log(f"format: {len(files)} files in {folder}")
    return {"files": [path.as_posix() for path in files if path.suffix != ".txt"]}


def test_split(request: Request) -> Mapping[str, str]:
    """Overrides that make the config's test split the server's."""
    return TEST_SPLITS.get(request.data.dataset, {}) if request.data else {}


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
        "config": request.settings(without=(*NOT_TESTING, "data.val", "data.val_dataloader", "evaluation")),
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
    code=("detector.engine.evaluate",),
    versions=("torch", "torchvision", "numpy", "opencv-python", "pycocotools", "cityscapesScripts"),
)
