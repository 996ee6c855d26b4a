"""Step `train`: a checkpoint and its loss curve from a config, a data set and a seed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from detector.errors import CheckpointError, DetectorError
from tasks import launch, spool, stamping, tracked_run, tracking
from tasks.digests import DigestCache, digest
from tasks.request import DataRequest, Request, dataset_paths, owner
from tasks.steps import Job, Step, write_text
from tasks.tracked_run import DataInput, Facts, RunFile, flatten
from tasks.versioning import data_digest, file_md5

WEIGHT_KEYS = ("load_from", "resume_from", "pretrained", "checkpoint")  # the last one is of init_cfg
CONTEXTS = {"train": "training", "val": "validation"}  # part of the data -> MLflow's name for what it is for
SAMPLES = 4  # pictures that each evaluation of a training draws
KEY_FILE = "step_key"  # beside the checkpoints: which key they belong to
# Keys of a config that cannot change the weights: names, messages, and what only validation and testing read.
NOT_TRAINING = (
    "work_dir", "log_level", "dist_params", "evaluation", "test_pipeline", "val_dataloader",
    "test_dataloader", "data.val", "data.test", "data.val_dataloader", "data.test_dataloader",
    "data.train_dataloader.workers_per_gpu", "data.train_dataloader.persistent_workers",
    "checkpoint_config", "model.test_cfg.rcnn", "test_cfg.rcnn",
)  # fmt: skip


def run(job: Job, request: Request) -> dict[str, Any]:
    """Train in our own processes, resuming only a training of the same key; promote the last checkpoint."""
    work_dir = prepare_work_dir(request.run_dir / "train", job)
    what = facts(job.key, request)
    tracked_run.begin(work_dir, what, manifest_tags(request))
    with tracking.track(work_dir, job.log):
        argv = launch.command(arguments_for(request, work_dir), processes=request.processes)
        job.log(f"$ {' '.join(argv)}")
        env = stamping.variables(job.key, work_dir, what.data)
        launch.run(argv, what="the training", log=job.log, env=env)
        sha256 = promote(work_dir, request.checkpoint)
        tracked_run.finished(work_dir, request.checkpoint, sha256)
    rows = spool.read(work_dir, spool.Position())
    write_text(request.run_dir / "loss.csv", spool.loss_table(rows))
    run_id = RunFile.load(work_dir).run_id
    return {"checkpoint": request.checkpoint.as_posix(), "sha256": sha256, "mlflow_run": run_id}


def manifest_tags(request: Request) -> dict[str, str]:
    """By which DVC knows the data that is read: the md5 of each data set's manifest, as in ``dvc.lock``."""
    sections = request.loaded.data.get("data") or {}
    names = {owner(path) for part in ("train", "val") for path in dataset_paths(sections.get(part))}
    found = {name: file_md5(DataRequest(name).manifest) for name in sorted(names - {""})}
    return {f"dvc.manifest_md5.{name}": md5 for name, md5 in found.items() if md5}


def prepare_work_dir(work_dir: Path, job: Job) -> Path:
    """The folder of this key's checkpoints; the one of the key before is kept as ``<name>.previous``."""
    previous = work_dir.with_name(f"{work_dir.name}.previous")
    aside = work_dir.with_name(f".{work_dir.name}.aside")
    _recover(work_dir, previous, aside)
    if work_dir.exists() and key_of(work_dir) != job.key:
        work_dir.rename(aside)
        if previous.exists() and key_of(previous) == job.key:
            previous.rename(work_dir)
            job.log(f"train: going on with {previous}, which is of the same code, config and data")
        else:
            shutil.rmtree(previous, ignore_errors=True)
            job.log(f"train: starting afresh; the training of other code, config or data is now {previous}")
        aside.rename(previous)
    write_text(work_dir / KEY_FILE, job.key + "\n")
    return work_dir


def _recover(work_dir: Path, previous: Path, aside: Path) -> None:
    """Finish an exchange of the folders that was killed halfway."""
    if not aside.exists():
        return
    if not work_dir.exists():
        aside.rename(work_dir)
        return
    shutil.rmtree(previous, ignore_errors=True)
    aside.rename(previous)


def key_of(work_dir: Path) -> str:
    """The key that a folder of checkpoints belongs to, empty when unknown."""
    marker = work_dir / KEY_FILE
    return marker.read_text().strip() if marker.is_file() else ""


def begin_afresh(request: Request) -> None:
    """Make the next training of the request start from its beginning, wherever its checkpoints are kept."""
    work_dir = request.run_dir / "train"
    with suppress(DetectorError):  # an input is missing: nothing can be gone on with, either
        key = STEP.key(request)
        for folder in (work_dir, work_dir.with_name(f"{work_dir.name}.previous")):
            if key_of(folder) == key:
                (folder / KEY_FILE).unlink()


def arguments_for(request: Request, work_dir: Path) -> list[str]:
    """The arguments of ``detector`` that put the request into words."""
    arguments = [
        "train",
        str(request.loaded.path),
        "--work-dir",
        str(work_dir),
        "--seed",
        str(request.seed),
        "--auto-resume",
    ]
    if request.processes > 1:
        arguments += ["--launcher", "pytorch"]
    options = [f"{key}={value}" for key, value in request.options.items()]
    if request.loaded.data.get("evaluation"):
        options.append(f"evaluation.samples={SAMPLES}")
    arguments += ["--cfg-options", *options] if options else []
    if request.device is not None:
        arguments += ["--device", request.device]
    return arguments


def promote(work_dir: Path, target: Path) -> str:
    """Write the last checkpoint, without what only a resume needs, to ``target``; returns its sha256.

    Raises:
        CheckpointError: the training left no checkpoint.
    """
    from detector.checkpoint.files import load_checkpoint, save_checkpoint

    latest = work_dir / "latest.pth"
    if not latest.exists():
        raise CheckpointError(
            f"{latest}: the training ended without a checkpoint; expected the link to the newest one. "
            "Set checkpoint_config.interval in the config to at most the number of epochs."
        )
    found = load_checkpoint(latest)
    target.parent.mkdir(parents=True, exist_ok=True)
    meta = stamping.with_run(found.meta, work_dir)
    return save_checkpoint(target, {"meta": meta, "state_dict": found.state_dict})


def facts(key: str, request: Request) -> Facts:
    """What MLflow is told about the training."""
    data = request.data
    read = (data_input(request, part, context) for part, context in CONTEXTS.items())
    return Facts(
        name=request.name, seed=request.seed, key=key, dataset=data.dataset if data else request.name,
        data=digest(request.inputs("train", "val")), params=flatten(request.loaded.data),
        text=request.loaded.text(), inputs=tuple(one for one in read if one is not None),
    )  # fmt: skip


def data_input(request: Request, part: str, context: str) -> DataInput | None:
    """A part of the data as MLflow names it, or None when the config does not read it.

    Its digest is DVC's md5 of the data set's manifest, as in ``dvc.lock``; of data that is not among the
    project's, the start of its content's digest.
    """
    found = request.inputs(part)
    if not found:
        return None
    data = request.data
    md5 = file_md5(data.manifest) if data else None
    content = digest(found)
    source = {"paths": sorted(found), "sha256": content, "manifest_md5": md5, "dvc_md5": data_digest()}
    name = f"{data.dataset if data else request.name} ({part})"
    return DataInput(name=name, digest=md5 or content[:36], context=context, source=json.dumps(source))


def inputs(request: Request) -> dict[str, Any]:
    """Everything that the weights depend on; validation only watches, so its data is not part of it."""
    return {
        "config": request.settings(without=NOT_TRAINING),
        "data": request.inputs("train"),
        "weights": first_weights(request.loaded.data),
        "seed": request.seed,
        "processes": request.processes,
    }


def first_weights(config: Any) -> dict[str, str]:
    """Path -> content digest of the files that a config, or a part of it, names as weights to start from."""
    found: dict[str, str] = {}
    for key, value in config.items() if isinstance(config, Mapping) else enumerate(config):
        if isinstance(value, Mapping | list | tuple):
            found.update(first_weights(value))
        elif key in WEIGHT_KEYS and isinstance(value, str) and Path(value).expanduser().is_file():
            found[value] = DigestCache().file(Path(value).expanduser())
    return found


def outputs(request: Request) -> list[Path]:
    """The promoted checkpoint and the loss curve."""
    return [request.checkpoint, request.run_dir / "loss.csv"]


STEP: Step[Request] = Step(
    name="train",
    run=run,
    inputs=inputs,
    outputs=outputs,
    details=lambda request: {"config": request.values(without=NOT_TRAINING)},
    afresh=begin_afresh,
    code=("detector.commands.train", "detector.engine.train"),
    ignore=(
        "detector.evaluation",
        "detector.engine.evaluate",
        "detector.engine.sample_pictures",
        "detector.visualize",
        "detector.cli",
    ),
    versions=("torch", "torchvision", "numpy", "opencv-python", "pycocotools"),
)
