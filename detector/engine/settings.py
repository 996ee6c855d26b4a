"""The run-level part of a config, checked once and typed: runner, log, checkpoints, evaluation, clipping."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from detector.errors import ConfigError

RUNNERS = ("EpochBasedRunner", "IterBasedRunner")
HANDLED_HOOKS = ("NumClassCheckHook",)
EVALUATION_RUN_KEYS = (
    *("interval", "start", "by_epoch", "save_best", "rule", "dynamic_intervals"),
    *("tmpdir", "gpu_collect", "broadcast_bn_buffer"),
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
    *("out_dir", "meta", "create_symlink"),
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


def unknown_name(where: str, found: str, accepted: Iterable[str]) -> ConfigError:
    """Error for a name outside a closed set, with the nearest one."""
    names = list(accepted)
    near = difflib.get_close_matches(found, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"{where}: found {found!r}; expected one of {', '.join(map(repr, names))}.{hint}")


def check_keys(where: str, found: Mapping[str, Any], accepted: Iterable[str]) -> None:
    """Raise a ConfigError for the first key of ``found`` that is not in ``accepted``."""
    names = list(accepted)
    for key in found:
        if key not in names:
            raise unknown_name(f"{where}.{key}", key, names)


@dataclass(frozen=True)
class EvaluationPlan:
    """When to evaluate and which checkpoint is the best.

    Attributes:
        interval: epochs (or iterations) between evaluations.
        start: first epoch (or iteration) that is evaluated, 0 for no lower limit.
        save_best: metric that picks the best checkpoint, 'auto' for the first one, None for no best
            checkpoint.
        rule: 'greater', 'less', or None to derive it from the metric's name.
    """

    interval: int = 1
    start: int = 0
    save_best: str | None = None
    rule: str | None = None

    def due(self, done: int) -> bool:
        """Whether to evaluate after ``done`` epochs (or iterations)."""
        offset = max(self.start, 1) if self.start else self.interval
        return done >= offset and (done - offset) % self.interval == 0

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
    """

    by_epoch: bool
    total: int
    log_interval: int = 50
    checkpoint_interval: int = 1
    max_keep_checkpoints: int = -1
    evaluation: EvaluationPlan | None = None
    grad_clip: dict[str, float] | None = None

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
    return RunPlan(
        by_epoch=by_epoch,
        total=_positive(f"runner.{key}", runner.get(key)),
        log_interval=_positive("log_config.interval", (cfg.get("log_config") or {}).get("interval", 50)),
        checkpoint_interval=_whole("checkpoint_config.interval", checkpoint.get("interval", 1)),
        max_keep_checkpoints=_whole("checkpoint_config.max_keep_ckpts", checkpoint.get("max_keep_ckpts", -1)),
        evaluation=_evaluation(cfg.get("evaluation")) if validate else None,
        grad_clip=_grad_clip(cfg.get("optimizer_config")),
    )


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
    if evaluation.get("dynamic_intervals"):
        raise ConfigError(
            "evaluation.dynamic_intervals: not supported yet. Remove it and set evaluation.interval."
        )
    return EvaluationPlan(
        interval=_positive("evaluation.interval", evaluation.get("interval", 1)),
        start=_whole("evaluation.start", evaluation.get("start") or 0),
        save_best=evaluation.get("save_best"),
        rule=rule,
    )


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
    return checkpoint


def check_sections(cfg: Mapping[str, Any]) -> None:
    """Refuse unknown keys of the small sections, which would have no effect."""
    scaling = cfg.get("auto_scale_lr") or {}
    check_keys("auto_scale_lr", scaling, ("enable", "base_batch_size"))
    if scaling.get("base_batch_size") is not None:
        _positive("auto_scale_lr.base_batch_size", scaling["base_batch_size"])
    check_keys("log_config", cfg.get("log_config") or {}, ("interval", "hooks"))
    for split in ("train", "val"):
        name = f"{split}_dataloader"
        check_keys(f"data.{name}", (cfg.get("data") or {}).get(name) or {}, LOADER_KEYS)


def _grad_clip(optimizer_config: Mapping[str, Any] | None) -> dict[str, float] | None:
    """Clipping arguments of the config's ``optimizer_config``."""
    options = dict(optimizer_config or {})
    kind = options.pop("type", "OptimizerHook")
    if kind != "OptimizerHook":
        raise unknown_name("optimizer_config.type", str(kind), ("OptimizerHook",))
    check_keys("optimizer_config", options, ("grad_clip",))
    clip = options.get("grad_clip")
    if not clip:
        return None
    check_keys("optimizer_config.grad_clip", clip, ("max_norm", "norm_type"))
    if "max_norm" not in clip:
        raise ConfigError(
            f"optimizer_config.grad_clip: found {clip}; expected max_norm. Set grad_clip=dict(max_norm=35, "
            "norm_type=2)."
        )
    return {"max_norm": float(clip["max_norm"]), "norm_type": float(clip.get("norm_type", 2))}


def _check_unsupported(cfg: Mapping[str, Any]) -> None:
    """Refuse settings that would change the result if they were ignored."""
    for hook in cfg.get("custom_hooks") or []:
        if hook.get("type") not in HANDLED_HOOKS:
            raise unknown_name("custom_hooks", str(hook.get("type")), HANDLED_HOOKS)
    workflow = [tuple(phase) for phase in cfg.get("workflow") or [("train", 1)]]
    if any(phase[0] != "train" for phase in workflow):
        raise ConfigError(
            f"workflow: found {workflow}; expected [('train', 1)]. Validation runs by the evaluation key."
        )
    if cfg.get("momentum_config"):
        raise ConfigError("momentum_config: not supported. Remove it.")


def _positive(where: str, value: Any) -> int:
    """``value`` as an int above 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{where}: found {value!r}; expected a whole number above 0.")
    return value


def _whole(where: str, value: Any) -> int:
    """``value`` as an int."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{where}: found {value!r}; expected a whole number. Write it without quotes.")
    return value
