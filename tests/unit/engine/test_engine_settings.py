"""Run plans read from configs."""

from __future__ import annotations

from typing import Any

import pytest

from detector.engine.hooks import AveragingPlan
from detector.engine.precision import PrecisionPlan
from detector.engine.settings import EvaluationPlan, evaluation_options, read_plan, without_effect
from detector.errors import ConfigError

BASE: dict[str, Any] = {"runner": {"type": "EpochBasedRunner", "max_epochs": 12}}


def test_defaults_of_the_reference() -> None:
    plan = read_plan(
        {**BASE, "checkpoint_config": {"interval": 4}, "evaluation": {"interval": 4, "metric": "bbox"}}
    )
    assert (plan.by_epoch, plan.total, plan.log_interval, plan.checkpoint_interval) == (True, 12, 50, 4)
    assert plan.evaluation == EvaluationPlan(interval=4)
    assert plan.grad_clip is None
    assert plan.max_iterations(10) == 120


def test_iteration_runner() -> None:
    plan = read_plan({"runner": {"type": "IterBasedRunner", "max_iters": 30}})
    assert (plan.by_epoch, plan.max_iterations(10)) == (False, 30)


def test_no_validate_drops_the_evaluation() -> None:
    assert read_plan({**BASE, "evaluation": {"interval": 1}}, validate=False).evaluation is None


@pytest.mark.parametrize(
    ("interval", "start", "due"),
    [(1, 0, [1, 2, 3, 4, 5, 6]), (2, 0, [2, 4, 6]), (2, 3, [3, 5]), (4, 1, [1, 5]), (9, 0, [])],
)
def test_when_evaluation_is_due(interval: int, start: int, due: list[int]) -> None:
    plan = EvaluationPlan(interval=interval, start=start)
    assert [done for done in range(1, 7) if plan.due(done)] == due


def test_an_interval_that_changes_with_the_epoch() -> None:
    plan = EvaluationPlan(interval=10, dynamic_intervals=((285, 1),))
    assert [done for done in range(255, 289) if plan.due(done)] == [260, 270, 280, 285, 286, 287, 288]


def test_hooks_precision_and_accumulation() -> None:
    plan = read_plan(
        {
            **BASE,
            "optimizer_config": {
                "type": "GradientCumulativeFp16OptimizerHook",
                "cumulative_iters": 4,
                "loss_scale": 128.0,
            },
            "custom_hooks": [
                {"type": "YOLOXModeSwitchHook", "num_last_epochs": 3, "priority": 48},
                {"type": "SyncNormHook", "num_last_epochs": 3, "interval": 10, "priority": 48},
                {"type": "ExpMomentumEMAHook", "resume_from": None, "momentum": 0.0001, "priority": 49},
                {"type": "CheckInvalidLossHook", "interval": 50, "priority": "VERY_LOW"},
            ],
        }
    )
    assert (plan.accumulate, plan.precision) == (4, PrecisionPlan("fp16", 128.0))
    assert plan.hooks.averaging == AveragingPlan(momentum=0.0001, start="exp", length=2000)
    assert plan.hooks.mode_switch is not None
    assert plan.hooks.mode_switch.first_epoch(12) == 8
    assert plan.hooks.sync_norm is not None
    assert [done for done in range(1, 13) if plan.hooks.sync_norm.due(done, 12)] == [9, 10, 11, 12]


@pytest.mark.parametrize(
    ("cfg", "expected"),
    [
        ({}, PrecisionPlan()),
        ({"fp16": {"loss_scale": "dynamic"}}, PrecisionPlan("fp16", "dynamic")),
        ({"fp16": {}}, PrecisionPlan("fp16", 512.0)),
        ({"fp16": {"loss_scale": {"init_scale": 512}}}, PrecisionPlan("fp16", {"init_scale": 512})),
        ({"precision": "bf16"}, PrecisionPlan("bf16")),
        ({"precision": "fp32", "fp16": {"loss_scale": 512.0}}, PrecisionPlan("fp32", 512.0)),
    ],
)
def test_precision(cfg: dict[str, Any], expected: PrecisionPlan) -> None:
    assert read_plan({**BASE, **cfg}).precision == expected


@pytest.mark.parametrize(
    ("rule", "metric", "value", "best", "better"),
    [
        (None, "bbox_mAP", 0.5, None, True),
        (None, "bbox_mAP", 0.5, 0.5, False),
        (None, "bbox_mAP", 0.6, 0.5, True),
        (None, "val_loss", 0.4, 0.5, True),
        ("less", "bbox_mAP", 0.6, 0.5, False),
    ],
)
def test_which_score_is_better(
    rule: str | None, metric: str, value: float, best: float | None, better: bool
) -> None:
    assert EvaluationPlan(rule=rule).is_better(metric, value, best) is better


def test_evaluation_options_leave_the_run_keys_out() -> None:
    given = {"interval": 1, "save_best": "auto", "metric": ["bbox"], "classwise": True, "tmpdir": "x"}
    assert evaluation_options(given) == {"metric": ["bbox"], "classwise": True}


def test_grad_clip_is_read() -> None:
    plan = read_plan({**BASE, "optimizer_config": {"grad_clip": {"max_norm": 35, "norm_type": 2}}})
    assert plan.grad_clip == {"max_norm": 35.0, "norm_type": 2.0}


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"runner": {"type": "EpochRunner", "max_epochs": 1}}, "'EpochBasedRunner'"),
        ({"runner": {"type": "EpochBasedRunner", "max_epoch": 1}}, "'max_epochs'"),
        ({"runner": {"type": "EpochBasedRunner", "max_epochs": 0}}, "above 0"),
        ({**BASE, "log_config": {"interval": 0}}, "log_config.interval"),
        ({**BASE, "optimizer_config": {"grad_clip": {"norm": 3}}}, "'max_norm'|norm_type"),
        ({**BASE, "optimizer_config": {"type": "Fp16Hook"}}, "Did you mean 'Fp16OptimizerHook'"),
        ({**BASE, "optimizer_config": {"cumulative_iters": 2}}, "cumulative_iters"),
        ({**BASE, "precision": "bf61"}, "Did you mean 'bf16'"),
        ({**BASE, "fp16": {"loss_scale": "static"}}, "loss_scale.*'static'"),
        ({**BASE, "fp16": {"loss_scale": {"init": 2}}}, "init_scale"),
        ({**BASE, "custom_hooks": [{"type": "EMAHook"}]}, "ExpMomentumEMAHook"),
        ({**BASE, "custom_hooks": [{"type": "ExpMomentumEMAHook", "momentum": 1}]}, "between 0 and 1"),
        ({**BASE, "custom_hooks": [{"type": "ExpMomentumEMAHook", "resume_from": "x"}]}, "--resume-from"),
        ({**BASE, "checkpoint_config": {"on_error": "ignore"}}, "'continue', 'stop'"),
        ({**BASE, "evaluation": {"dynamic_intervals": [285, 1]}}, r"pairs \(from, interval\)"),
        (
            {
                "runner": {"type": "IterBasedRunner", "max_iters": 9},
                "custom_hooks": [{"type": "YOLOXModeSwitchHook"}],
            },
            "counts epochs",
        ),
        ({**BASE, "workflow": [("train", 1), ("val", 1)]}, "workflow"),
        ({**BASE, "evaluation": {"interval": 1, "rule": "more"}}, "'greater'"),
        ({**BASE, "checkpoint_config": {"intervall": 1}}, "'interval'"),
        ({**BASE, "checkpoint_config": {"interval": "1"}}, r"checkpoint_config\.interval.*quotes"),
        ({**BASE, "checkpoint_config": {"by_epoch": False, "interval": 9}}, r"by_epoch.*counts epochs"),
        (
            {"runner": {"type": "IterBasedRunner", "max_iters": 9}, "checkpoint_config": {"by_epoch": True}},
            r"by_epoch.*counts iterations",
        ),
        ({**BASE, "checkpoint_config": {"out_dir": "x"}}, "work_dir"),
        ({**BASE, "log_config": {"intervals": 5}}, "'interval'"),
        ({**BASE, "auto_scale_lr": {"enabled": True}}, "'enable'"),
        ({**BASE, "auto_scale_lr": {"base_batch_size": "16"}}, "above 0"),
        ({**BASE, "evaluation": {"interval": 1, "clas_wise": True}}, "'classwise'"),
        ({**BASE, "data": {"train_dataloader": {"sample_per_gpu": 2}}}, "'samples_per_gpu'"),
        ({**BASE, "data": {"val_dataloader": {"class_aware_sampler": {}}}}, "class_aware_sampler"),
    ],
)
def test_mistakes_are_named(config: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        read_plan(config)


RUNTIME: dict[str, Any] = {
    **BASE,
    "checkpoint_config": {"interval": 1},
    "log_config": {"interval": 50, "hooks": [{"type": "TextLoggerHook"}]},
    "log_level": "INFO",
    "workflow": [("train", 1)],
    "opencv_num_threads": 0,
    "mp_start_method": "fork",
    "auto_scale_lr": {"enable": False, "base_batch_size": 16},
}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, []),
        ({"workflow": [("train", 5000)]}, []),
        ({"opencv_num_threads": 4}, ["opencv_num_threads=4"]),
        (
            {"log_level": "DEBUG", "mp_start_method": "spawn"},
            ["log_level='DEBUG'", "mp_start_method='spawn'"],
        ),
        ({"checkpoint_config": {"save_optimizer": False}}, ["checkpoint_config.save_optimizer=False"]),
        (
            {"log_config": {"hooks": [{"type": "TextLoggerHook"}, {"type": "TensorboardLoggerHook"}]}},
            ["log_config.hooks TensorboardLoggerHook"],
        ),
    ],
)
def test_only_unusual_settings_without_effect_are_named(changes: dict[str, Any], named: list[str]) -> None:
    read_plan({**RUNTIME, **changes})
    assert without_effect({**RUNTIME, **changes}) == named
