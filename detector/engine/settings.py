"""The run-level part of a config, checked once and typed: runner, log, checkpoints, evaluation, clipping."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from detector.engine.checkpoints import ON_ERROR
from detector.engine.checks import check_keys, positive, unknown_name, whole
from detector.engine.hooks import HookPlan, read_hooks
from detector.engine.precision import PrecisionPlan, read_precision
from detector.errors import ConfigError

RUNNERS = ("EpochBasedRunner", "IterBasedRunner")
OPTIMIZER_HOOKS = (
    *("OptimizerHook", "Fp16OptimizerHook"),
    *("GradientCumulativeOptimizerHook", "GradientCumulativeFp16OptimizerHook"),
)
EVALUATION_RUN_KEYS = (
    *("interval", "start", "by_epoch", "save_best", "rule", "dynamic_intervals"),
    *("tmpdir", "gpu_collect", "broadcast_bn_buffer", "samples"),
)
COCO_OPTIONS = ("classwise", "evaluator", "proposal_nums", "iou_thrs", "metric_items")
OTHER_OPTIONS = (
    "iou_thr",
    "scale_ranges",
    "metric",
    "jsonfile_prefix",
    "outfile_prefix",
    "txtfile_prefix",
    "gt_dir",
)
CHECKPOINT_KEYS = (
    *("interval", "max_keep_ckpts", "by_epoch", "save_optimizer", "save_last"),
    *("out_dir", "meta", "create_symlink", "on_error"),
)
LOADER_KEYS = ("samples_per_gpu", "workers_per_gpu", "persistent_workers")
# accepted, but nothing reads them: (section, key) -> MMDetection's default, which needs no mention
WITHOUT_EFFECT: dict[tuple[str, ...], Any] = {
    ("log_level",): "INFO",
    ("mp_start_method",): "fork",
    ("opencv_num_threads",): 0,
    ("checkpoint_config", "save_optimizer"): True,
    ("checkpoint_config", "save_last"): True,
    ("checkpoint_config", "create_symlink"): True,
    ("checkpoint_config", "meta"): None,
}


@dataclass(frozen=True)
class EvaluationPlan:
    """When to evaluate and which checkpoint is the best.

    Attributes:
        interval: epochs (or iterations) between evaluations.
        start: first epoch (or iteration) that is evaluated, 0 for no lower limit.
        save_best: metric that picks the best checkpoint, 'auto' for the first one, None for no best
            checkpoint.
        rule: 'greater', 'less', or None to derive it from the metric's name.
        dynamic_intervals: (first epoch or iteration, interval from there on), rising.
        samples: pictures that each evaluation draws, ground truth and detections side by side.
    """

    interval: int = 1
    start: int = 0
    save_best: str | None = None
    rule: str | None = None
    dynamic_intervals: tuple[tuple[int, int], ...] = ()
    samples: int = 0

    def due(self, done: int) -> bool:
        """Whether to evaluate after ``done`` epochs (or iterations)."""
        passed = bisect_right([first for first, _ in self.dynamic_intervals], done)
        interval = self.dynamic_intervals[passed - 1][1] if passed else self.interval
        offset = max(self.start, 1) if self.start else interval
        return done >= offset and (done - offset) % interval == 0

    def is_better(self, metric: str, value: float, best: float | None) -> bool:
        """Whether ``value`` of ``metric`` beats ``best``."""
        if best is None:
            return True
        rule = self.rule or ("less" if "loss" in metric else "greater")
        return value > best if rule == "greater" else value < best


@dataclass(frozen=True)
class RunPlan:
    """What a training run does and when.

    Attributes:
        by_epoch: whether the run, its checkpoints and evaluations count epochs; iterations otherwise.
        total: epochs or iterations of the run.
        log_interval: iterations between log lines.
        checkpoint_interval: epochs or iterations between checkpoints; 0 keeps only the last.
        max_keep_checkpoints: regular checkpoints kept, -1 for all.
        evaluation: None when the run does not validate.
        grad_clip: arguments of ``clip_grad_norm_`` or None.
        accumulate: iterations whose gradients make one update.
        precision: what the model computes in.
        hooks: what the config's ``custom_hooks`` ask for.
        on_checkpoint_error: 'continue' or 'stop' when a checkpoint cannot be written.
    """

    by_epoch: bool
    total: int
    log_interval: int = 50
    checkpoint_interval: int = 1
    max_keep_checkpoints: int = -1
    evaluation: EvaluationPlan | None = None
    grad_clip: dict[str, float] | None = None
    accumulate: int = 1
    precision: PrecisionPlan = field(default_factory=PrecisionPlan)
    hooks: HookPlan = field(default_factory=HookPlan)
    on_checkpoint_error: str = "continue"

    def max_iterations(self, epoch_length: int) -> int:
        """Iterations of the whole run."""
        return self.total * epoch_length if self.by_epoch else self.total


def read_plan(cfg: Mapping[str, Any], *, validate: bool = True) -> RunPlan:
    """Plan of a merged config.

    Raises:
        ConfigError: a runner, hook, workflow or key that is unknown or out of range.
    """
    _check_unsupported(cfg)
    runner = dict(
        cfg.get("runner") or {"type": "EpochBasedRunner", "max_epochs": cfg.get("total_epochs", 12)}
    )
    kind = runner.get("type", "EpochBasedRunner")
    if kind not in RUNNERS:
        raise unknown_name("runner.type", str(kind), RUNNERS)
    by_epoch = kind == "EpochBasedRunner"
    key = "max_epochs" if by_epoch else "max_iters"
    check_keys("runner", runner, ("type", "max_epochs", "max_iters"))
    check_sections(cfg)
    checkpoint = _checkpoint(cfg, by_epoch=by_epoch)
    grad_clip, accumulate = _update(cfg.get("optimizer_config"))
    return RunPlan(
        by_epoch=by_epoch,
        total=positive(f"runner.{key}", runner.get(key)),
        log_interval=positive("log_config.interval", (cfg.get("log_config") or {}).get("interval", 50)),
        checkpoint_interval=whole("checkpoint_config.interval", checkpoint.get("interval", 1)),
        max_keep_checkpoints=whole("checkpoint_config.max_keep_ckpts", checkpoint.get("max_keep_ckpts", -1)),
        evaluation=_evaluation(cfg.get("evaluation")) if validate else None,
        grad_clip=grad_clip,
        accumulate=accumulate,
        precision=read_precision(cfg),
        hooks=_hooks(cfg, by_epoch=by_epoch),
        on_checkpoint_error=checkpoint.get("on_error", "continue"),
    )


def _hooks(cfg: Mapping[str, Any], *, by_epoch: bool) -> HookPlan:
    """The config's custom hooks; those that count epochs need a run that does."""
    hooks = read_hooks(cfg.get("custom_hooks"))
    if hooks.mode_switch is not None and not by_epoch:
        raise ConfigError(
            "custom_hooks (YOLOXModeSwitchHook): counts epochs, but the runner counts iterations; expected "
            "an EpochBasedRunner. Remove the hook or change the runner."
        )
    return hooks


def without_effect(cfg: Mapping[str, Any]) -> list[str]:
    """Settings of MMDetection that a run accepts and does not read, as 'key=value'.

    Those with MMDetection's default are left out.
    """
    found = []
    for path, default in WITHOUT_EFFECT.items():
        section = cfg if len(path) == 1 else cfg.get(path[0]) or {}
        value = section.get(path[-1], default)
        if value != default:
            found.append(f"{'.'.join(path)}={value!r}")
    kinds = [str(hook.get("type")) for hook in (cfg.get("log_config") or {}).get("hooks") or []]
    return [*found, *(f"log_config.hooks {kind}" for kind in kinds if kind != "TextLoggerHook")]


def evaluation_options(evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    """The config's ``evaluation`` without the keys that say when to evaluate."""
    return {key: value for key, value in (evaluation or {}).items() if key not in EVALUATION_RUN_KEYS}


def _evaluation(evaluation: Mapping[str, Any] | None) -> EvaluationPlan | None:
    """Plan of the config's ``evaluation``; None when the config has none."""
    if not evaluation:
        return None
    check_keys("evaluation", evaluation, (*EVALUATION_RUN_KEYS, *COCO_OPTIONS, *OTHER_OPTIONS))
    rule = evaluation.get("rule")
    if rule not in (None, "greater", "less"):
        raise unknown_name("evaluation.rule", str(rule), ("greater", "less"))
    return EvaluationPlan(
        interval=positive("evaluation.interval", evaluation.get("interval", 1)),
        start=whole("evaluation.start", evaluation.get("start") or 0),
        save_best=evaluation.get("save_best"),
        rule=rule,
        dynamic_intervals=_dynamic_intervals(evaluation.get("dynamic_intervals") or ()),
        samples=whole("evaluation.samples", evaluation.get("samples") or 0),
    )


def _dynamic_intervals(given: Any) -> tuple[tuple[int, int], ...]:
    """Pairs of (first epoch or iteration, interval), in order."""
    where = "evaluation.dynamic_intervals"
    if not isinstance(given, list | tuple) or any(
        not isinstance(pair, list | tuple) or len(pair) != 2 for pair in given
    ):
        raise ConfigError(f"{where}: found {given!r}; expected pairs (from, interval), such as [(285, 1)].")
    return tuple(sorted((positive(where, first), positive(where, interval)) for first, interval in given))


def _checkpoint(cfg: Mapping[str, Any], *, by_epoch: bool) -> dict[str, Any]:
    """The config's ``checkpoint_config``, without what a run cannot do."""
    checkpoint = dict(cfg.get("checkpoint_config") or {"interval": 0})
    check_keys("checkpoint_config", checkpoint, CHECKPOINT_KEYS)
    counts = checkpoint.get("by_epoch")
    if counts is not None and bool(counts) != by_epoch:
        raise ConfigError(
            f"checkpoint_config.by_epoch: found {counts!r}, but the runner counts "
            f"{'epochs' if by_epoch else 'iterations'}; expected the same unit. Remove by_epoch and give "
            "interval in the runner's unit."
        )
    if checkpoint.get("out_dir") is not None:
        raise ConfigError(
            f"checkpoint_config.out_dir: found {checkpoint['out_dir']!r}; checkpoints go to the work_dir. "
            "Remove it and set work_dir."
        )
    if checkpoint.get("on_error", "continue") not in ON_ERROR:
        raise unknown_name("checkpoint_config.on_error", str(checkpoint["on_error"]), ON_ERROR)
    return checkpoint


def check_sections(cfg: Mapping[str, Any]) -> None:
    """Refuse unknown keys of the small sections, which would have no effect."""
    scaling = cfg.get("auto_scale_lr") or {}
    check_keys("auto_scale_lr", scaling, ("enable", "base_batch_size"))
    if scaling.get("base_batch_size") is not None:
        positive("auto_scale_lr.base_batch_size", scaling["base_batch_size"])
    check_keys("log_config", cfg.get("log_config") or {}, ("interval", "hooks"))
    for split in ("train", "val"):
        name = f"{split}_dataloader"
        check_keys(f"data.{name}", (cfg.get("data") or {}).get(name) or {}, LOADER_KEYS)


def _update(optimizer_config: Mapping[str, Any] | None) -> tuple[dict[str, float] | None, int]:
    """(clipping arguments or None, iterations an update) of the config's ``optimizer_config``."""
    options = dict(optimizer_config or {})
    kind = options.pop("type", "OptimizerHook")
    if kind not in OPTIMIZER_HOOKS:
        raise unknown_name("optimizer_config.type", str(kind), OPTIMIZER_HOOKS)
    accepted = ["grad_clip"]
    accepted += ["cumulative_iters"] if kind.startswith("GradientCumulative") else []
    accepted += ["loss_scale"] if kind.endswith("Fp16OptimizerHook") else []
    check_keys("optimizer_config", options, accepted)
    accumulate = positive("optimizer_config.cumulative_iters", options.get("cumulative_iters", 1))
    clip = options.get("grad_clip")
    if not clip:
        return None, accumulate
    check_keys("optimizer_config.grad_clip", clip, ("max_norm", "norm_type"))
    if "max_norm" not in clip:
        raise ConfigError(
            f"optimizer_config.grad_clip: found {clip}; expected max_norm. Set grad_clip=dict(max_norm=35, "
            "norm_type=2)."
        )
    return {"max_norm": float(clip["max_norm"]), "norm_type": float(clip.get("norm_type", 2))}, accumulate


def _check_unsupported(cfg: Mapping[str, Any]) -> None:
    """Refuse settings that would change the result if they were ignored."""
    workflow = [tuple(phase) for phase in cfg.get("workflow") or [("train", 1)]]
    if any(phase[0] != "train" for phase in workflow):
        raise ConfigError(
            f"workflow: found {workflow}; expected [('train', 1)]. Validation runs by the evaluation key."
        )
    if cfg.get("momentum_config"):
        raise ConfigError("momentum_config: not supported. Remove it.")
