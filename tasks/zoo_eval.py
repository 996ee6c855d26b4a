"""Step `zoo_eval`: a published model's metrics on the data set of its config, to compare with its paper's.

Weights come from the weight cache, or are downloaded once into it; the config from ``configs``, or from the
checkpoint where it is not among those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from detector.config import Config, load_config
from detector.config.load import config_from_text
from detector.config.resolve import config_names
from detector.errors import CheckpointError, ConfigError
from detector.lineage.carriers import with_key
from detector.naming import close_names
from detector.zoo.index import ZooModel, find_model, models
from tasks import evaluate, report
from tasks.digests import DigestCache, digest
from tasks.request import RUNS_ROOT, Request, dataset_paths
from tasks.stamping import stamping
from tasks.steps import Job, Step, write_json, write_text
from tasks.testing import NOT_TESTING, kept

UNREAD = (*NOT_TESTING, "data.val", "data.val_dataloader")  # keys of a config that do not matter here
# As reported, in percent -> our names, for the kinds of data sets, and what makes percent of them.
MEASURED = {
    "box AP": (("bbox_mAP", "bbox_AP", "mAP"), 100.0),
    "mask AP": (("segm_mAP", "segm_AP"), 100.0),
    "AR@1000": (("AR@1000",), 100.0),
    "PQ": (("PQ",), 1.0),
}
COMPARISON = RUNS_ROOT / "zoo" / "comparison.md"
EQUAL, CLOSE = 0.1, 1.0  # points; reports are rounded to 0.1


@dataclass(frozen=True)
class ZooRequest(Request):
    """The test of one published model; ``config`` is its name."""

    @cached_property
    def model(self) -> ZooModel:
        """What was published."""
        return find_model(self.config)

    @cached_property
    def checkpoint(self) -> Path:  # type: ignore[override]
        """The file of the weights; downloaded where it is not here.

        Raises:
            CheckpointError: it is not here and cannot be fetched; names the file and where to place it.
        """
        from detector.checkpoint.weights import resolve_weights

        return resolve_weights(self.model.weights)

    @cached_property
    def loaded(self) -> Config:
        """The config of the published name: of ``configs``, else of the checkpoint.

        Raises:
            CheckpointError: the checkpoint holds none.
        """
        files = config_names().get(Path(self.model.config).stem, [])
        if len(files) == 1:
            return load_config(files[0])
        from detector.checkpoint.files import load_checkpoint

        text = load_checkpoint(self.checkpoint).meta.get("config")
        if not isinstance(text, str):
            raise CheckpointError(
                f"{self.checkpoint}: found no config in the checkpoint's meta, and no {self.model.config} in "
                f"the configs folder; expected one of them. Put the file to configs/{self.model.config}."
            )
        return config_from_text(text, name=f"{self.model.name} (of its checkpoint)")

    @property
    def name(self) -> str:
        """The published name."""
        return self.model.name

    @property
    def run_dir(self) -> Path:
        """Where the result is kept."""
        return RUNS_ROOT / "zoo" / self.model.name


def chosen(names: Sequence[str]) -> list[ZooModel]:
    """The models of published names, of patterns with * and ?, and of families.

    Of patterns and families only those that run here are taken.

    Raises:
        ConfigError: nothing has the name, or it does not run here.
    """
    found: dict[str, ZooModel] = {}
    families = {model.family for model in models().values()}
    for name in names:
        if name in families or any(sign in name for sign in "*?["):
            fitting = [m for m in models().values() if m.family == name or fnmatchcase(m.name, name)]
            taken = [model for model in fitting if model.supported]
            if not taken:
                raise ConfigError(_nothing(name, fitting, families))
        else:
            taken = [find_model(name)]
            if not taken[0].supported:
                raise ConfigError(_nothing(name, taken, families))
        found.update({model.name: model for model in taken})
    return list(found.values())


def _nothing(name: str, fitting: Sequence[ZooModel], families: set[str]) -> str:
    if fitting:
        lacking = sorted({block for model in fitting for block in model.lacking})
        return f"zoo: {name!r} does not run here: it needs {', '.join(lacking)}. Choose another model."
    near = close_names(name.strip("*?_"), [*models(), *families])
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return (
        f"zoo: found no model for {name!r}; expected a published name, a pattern such as mask_rcnn_r50_*, or "
        f"a family.{hint} `detector zoo list --supported` shows all."
    )


def run(job: Job, request: ZooRequest) -> dict[str, Any]:
    """Run the published model on the test split of its config and measure."""
    with stamping("zoo_eval", job.key, request, digest(request.inputs("test"))):
        return _run(job, request)


def _run(job: Job, request: ZooRequest) -> dict[str, Any]:
    from detector.engine.evaluate import split_dataset, test
    from detector.engine.scoring import measure_fitting

    config, folder = request.loaded, request.run_dir
    dataset = split_dataset(config, "test")
    job.log(f"zoo_eval: {request.checkpoint} on {len(dataset)} images")
    folder.mkdir(parents=True, exist_ok=True)
    found = test(
        config, request.checkpoint, dataset=dataset, split="test", device=request.device,
        score_threshold=request.score_threshold,
    )  # fmt: skip
    measured = measure_fitting(config, dataset, kept(found, request.score_threshold))
    write_text(folder / "pr.csv", evaluate.pr_table(measured.curves))
    metrics = evaluate.numbers(measured.metrics)
    write_json(folder / "metrics.json", with_key(metrics))
    for name in report.headline(metrics):
        job.log(f"zoo_eval: {name} {metrics[name]:.4f}")
    return {"metrics": metrics}


def compare(model: ZooModel, metrics: Mapping[str, float], tolerance: float) -> list[dict[str, Any]]:
    """What was reported beside what was measured, in percent: one row per reported metric.

    Args:
        model: gives the reported numbers.
        metrics: measured, by our names.
        tolerance: largest difference, in points, that is no failure.
    """
    rows = []
    for reported_as, reported in model.metrics.items():
        names, factor = MEASURED.get(reported_as, ((reported_as,), 1.0))
        value = next((metrics[name] * factor for name in names if name in metrics), None)
        difference = None if value is None else round(value, 1) - reported
        rows.append(
            {
                "name": model.name,
                "metric": reported_as,
                "reported": reported,
                "measured": None if value is None else round(value, 2),
                "difference": None if difference is None else round(difference, 1),
                "verdict": verdict(difference),
                "passes": passes(difference, tolerance),
            }
        )
    return rows


def passes(difference: float | None, tolerance: float) -> bool:
    """Whether a difference, in points, is within the tolerance; no measure is none."""
    return difference is not None and abs(difference) <= tolerance + 1e-6


def verdict(difference: float | None) -> str:
    """A difference in words."""
    if difference is None:
        return "not measured"
    if passes(difference, EQUAL):
        return f"equal (within {EQUAL})"
    return f"close (within {CLOSE:.1f})" if passes(difference, CLOSE) else "differs"


def failed(model: ZooModel, why: str) -> dict[str, Any]:
    """The row of a model that could not be tested."""
    row: dict[str, Any] = dict.fromkeys(("reported", "measured", "difference"))
    return {"name": model.name, "metric": "", **row, "verdict": f"failed: {why}", "passes": False}


def inputs(request: ZooRequest) -> dict[str, Any]:
    """The weights, what testing reads of the config, the data and the threshold."""
    images = dataset_paths(request.loaded.data.get("data", {}).get("test"))
    return {
        "checkpoint": DigestCache().file(request.checkpoint),
        "config": request.settings(without=UNREAD),
        "data": request.inputs("test"),
        "truth": request.digests([truth for truth in map(evaluate.truth_of, images) if truth]),
        "score_threshold": request.score_threshold,
    }


STEP: Step[ZooRequest] = Step(
    name="zoo_eval",
    run=run,
    inputs=inputs,
    outputs=lambda request: [request.run_dir / name for name in ("metrics.json", "pr.csv")],
    details=lambda request: {"config": request.values(without=UNREAD)},
    code=("detector.engine.evaluate",),
    ignore=evaluate.STEP.ignore,
    versions=evaluate.STEP.versions,
)
