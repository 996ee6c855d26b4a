"""Learning rates against hand-computed values and the reference's own log."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.engine.schedules import POLICIES, Position, build_schedule
from detector.errors import ConfigError

GOLDEN = Path(__file__).parents[2] / "golden" / "engine" / "bccd_lr.json"


def at(iteration: int, *, epoch_length: int = 10, max_iterations: int = 120) -> Position:
    return Position(iteration=iteration, epoch_length=epoch_length, max_iterations=max_iterations)


@pytest.mark.parametrize(
    "row", json.loads(GOLDEN.read_text()), ids=lambda row: f"{row['epoch']}-{row['iter']}"
)
def test_equals_the_reference_log(row: dict[str, Any]) -> None:
    schedule = build_schedule(
        {"policy": "step", "warmup": "linear", "warmup_iters": 60, "warmup_ratio": 0.01, "step": [9, 11]}
    )
    epoch_length = 52  # 205 images in batches of 4
    finished = (row["epoch"] - 1) * epoch_length + row["iter"] - 1
    lr = schedule.lr(0.0005, at(finished, epoch_length=epoch_length, max_iterations=12 * epoch_length))
    assert round(lr, 5) == row["lr"]


@pytest.mark.parametrize(
    ("config", "iteration", "expected"),
    [
        ({"policy": "fixed"}, 77, 1.0),
        ({"policy": "step", "step": [8, 11]}, 79, 1.0),
        ({"policy": "step", "step": [8, 11]}, 80, 0.1),
        ({"policy": "step", "step": [8, 11]}, 110, 0.01),
        ({"policy": "step", "step": 3, "gamma": 0.5}, 65, 0.25),
        ({"policy": "step", "step": [1], "min_lr": 0.3}, 50, 0.3),
        ({"policy": "step", "step": [100], "by_epoch": False}, 99, 1.0),
        ({"policy": "step", "step": [100], "by_epoch": False}, 100, 0.1),
        ({"policy": "CosineAnnealing", "min_lr": 0, "by_epoch": False}, 60, 0.5),
        (
            {"policy": "CosineAnnealing", "min_lr_ratio": 0.1, "by_epoch": False},
            30,
            0.1 + 0.45 * (0.5**0.5 + 1),
        ),
        ({"policy": "CosineAnnealing", "min_lr": 0}, 69, 0.5),
        ({"policy": "poly", "power": 2, "min_lr": 0.2, "by_epoch": False}, 60, 0.8 * 0.25 + 0.2),
        ({"policy": "exp", "gamma": 0.5}, 35, 0.125),
        ({"policy": "inv", "gamma": 1.0, "power": 2}, 10, 0.25),
        ({"policy": "fixed", "warmup": "constant", "warmup_iters": 20, "warmup_ratio": 0.3}, 19, 0.3),
        ({"policy": "fixed", "warmup": "linear", "warmup_iters": 20, "warmup_ratio": 0.2}, 0, 0.2),
        ({"policy": "fixed", "warmup": "linear", "warmup_iters": 20, "warmup_ratio": 0.2}, 10, 0.6),
        ({"policy": "fixed", "warmup": "linear", "warmup_iters": 20, "warmup_ratio": 0.2}, 20, 1.0),
        ({"policy": "fixed", "warmup": "exp", "warmup_iters": 20, "warmup_ratio": 0.25}, 10, 0.5),
        (
            {
                "policy": "fixed",
                "warmup": "linear",
                "warmup_iters": 2,
                "warmup_ratio": 0.5,
                "warmup_by_epoch": True,
            },
            10,
            0.75,
        ),
        (
            {"policy": "step", "step": [1], "warmup": "linear", "warmup_iters": 20, "warmup_ratio": 0.2},
            10,
            0.06,
        ),
    ],
)
def test_hand_computed(config: dict[str, Any], iteration: int, expected: float) -> None:
    assert build_schedule(config).lr(1.0, at(iteration)) == pytest.approx(expected, rel=1e-12)


@given(
    iteration=st.integers(0, 119),
    policy=st.sampled_from(["fixed", "step", "CosineAnnealing", "poly"]),
    base=st.floats(1e-6, 10),
)
def test_never_above_the_base_rate_and_proportional_to_it(iteration: int, policy: str, base: float) -> None:
    extra = {"step": {"step": [3, 7]}, "CosineAnnealing": {"min_lr_ratio": 0.01}}.get(policy, {})
    schedule = build_schedule(
        {"policy": policy, "warmup": "linear", "warmup_iters": 15, "warmup_ratio": 0.1, **extra}
    )
    lr = schedule.lr(base, at(iteration))
    assert 0 <= lr <= base * (1 + 1e-12)
    assert lr == pytest.approx(base * schedule.lr(1.0, at(iteration)), rel=1e-9, abs=1e-15)


def test_iteration_runner_counts_iterations_unless_told_otherwise() -> None:
    schedule = build_schedule({"policy": "step", "step": [30]}, by_epoch=False)
    assert schedule.lr(1.0, at(30)) == pytest.approx(0.1)


def test_no_lr_config_is_a_fixed_rate() -> None:
    assert build_schedule(None).lr(0.5, at(100)) == 0.5


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"policy": "stepp", "step": [1]}, "'step'"),
        ({"policy": "step", "steps": [1]}, "'step'"),
        ({"policy": "step"}, "step"),
        ({"policy": "CosineAnnealing"}, "exactly one"),
        ({"policy": "fixed", "warmup": "linaer", "warmup_iters": 3}, "'linear'"),
        ({"policy": "fixed", "warmup": "linear"}, "warmup_iters"),
        ({"policy": "fixed", "warmup": "linear", "warmup_iters": 3, "warmup_ratio": 0}, "warmup_ratio"),
        ({"policy": "fixed", "warmup": "linear", "warmup_iters": "500"}, "warmup_iters.*quotes"),
        ({"policy": "fixed", "warmup": "linear", "warmup_iters": None}, "warmup_iters"),
        ({"policy": "step", "step": "8"}, "step: found '8'.*quotes"),
        ({"policy": "step", "step": [8, "11"]}, "quotes"),
        ({"policy": "step", "step": 0}, "above 0"),
        ({"policy": "exp", "gamma": "0.1"}, "gamma"),
    ],
)
def test_mistakes_are_named(config: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        build_schedule(config)


def test_policy_names_do_not_depend_on_case() -> None:
    assert {name.lower() for name in POLICIES} == {"fixed", "step", "cosineannealing", "poly", "exp", "inv"}
    assert build_schedule({"policy": "Step", "step": [1]}).lr(1.0, at(10)) == pytest.approx(0.1)


def test_a_text_in_place_of_the_dict_is_named() -> None:
    with pytest.raises(ConfigError, match=r"lr_config: found 'step'.*dict"):
        build_schedule("step")  # type: ignore[arg-type]


YOLOX = {
    "policy": "YOLOX", "warmup": "exp", "by_epoch": False, "warmup_by_epoch": True, "warmup_ratio": 1,
    "warmup_iters": 2, "num_last_epochs": 3, "min_lr_ratio": 0.05,
}  # fmt: skip


@pytest.mark.parametrize(
    ("iteration", "expected"),
    [
        (0, (1 / 20) ** 2),
        (9, 0.25),
        (19, 1.0),
        (20, 0.05 + 0.475 * (math.cos(math.pi / 70) + 1)),
        (54, 0.05 + 0.475 * (math.cos(math.pi * 35 / 70) + 1)),
        (88, 0.05 + 0.475 * (math.cos(math.pi * 69 / 70) + 1)),
        (89, 0.05),
        (119, 0.05),
    ],
)
def test_yolox(iteration: int, expected: float) -> None:
    schedule = build_schedule(YOLOX, by_epoch=True)
    assert schedule.lr(1.0, at(iteration)) == pytest.approx(expected)
    assert schedule.lr(0.01, at(iteration)) == pytest.approx(0.01 * expected)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"by_epoch": True}, "by_epoch=False"),
        ({"num_last_epochs": None}, "num_last_epochs"),
        ({"warmup": "linear"}, "'exp'"),
        ({"gamma": 0.1}, "lr_config.gamma"),
    ],
)
def test_mistakes_of_yolox_are_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        build_schedule({**YOLOX, **change})
