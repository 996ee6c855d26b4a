"""The --cfg-options grammar, and what is said of overrides that do not fit."""

from __future__ import annotations

from typing import Any

import pytest

from detector.config.load import Config, config_from_text
from detector.config.overrides import parse_options, parse_value
from detector.errors import ConfigError

CONFIG = """
rate = 0.1
model = dict(type='M', backbone=dict(type='ResNet', depth=50), neck=None)
optimizer = dict(type='SGD', lr=rate)
runner = dict(type='EpochBasedRunner', max_epochs=12)
data = dict(train=dict(type='D', pipeline=[dict(type='Load'), dict(type='Resize', img_scale=(10, 20))]))
"""


def with_options(**options: Any) -> Config:
    return config_from_text(CONFIG, options={key.replace("__", "."): value for key, value in options.items()})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        ("-1e-3", -0.001),
        ("true", True),
        ("FALSE", False),
        ("None", None),
        ("none", "none"),
        ("SGD", "SGD"),
        ("", ""),
        ("1,2,3", [1, 2, 3]),
        ("[1,2]", [1, 2]),
        ("(1,2)", (1, 2)),
        ("[(1,2),(3,4)]", [(1, 2), (3, 4)]),
        ("(a,[b,1.5],None)", ("a", ["b", 1.5], None)),
        ("'x'", "x"),
        ('"a,b"', ["a", "b"]),
        ("[1, 2, 3]", [1, 2, 3]),
        ("[]", []),
        ("()", ()),
        ("(1,)", (1,)),
        ("[a]", ["a"]),
        ("a,", ["a"]),
        ("(1,2),(3,4)", [(1, 2), (3, 4)]),
        ("https://x/y?a=b", "https://x/y?a=b"),
    ],
)
def test_values(text: str, expected: object) -> None:
    value = parse_value(text)

    assert (value, type(value)) == (expected, type(expected))


def test_first_equals_sign_splits() -> None:
    assert parse_options(["a.b=x=y", "c=1"]) == {"a.b": "x=y", "c": 1}


@pytest.mark.parametrize("option", ["novalue", "=3", "a..b=1", "a=(1,2", "a=[1,(2])"])
def test_malformed_options(option: str) -> None:
    with pytest.raises(ConfigError, match=r"^--cfg-options: "):
        parse_options([option])


@pytest.mark.parametrize("option", ["novalue", "a=(1,2"])
def test_malformed_options_name_their_own_argument(option: str) -> None:
    with pytest.raises(ConfigError, match=r"^--eval-options: (?!.*--cfg-options)"):
        parse_options([option], argument="--eval-options")


def test_overrides_reach_dicts_lists_and_tuples_and_say_so() -> None:
    config = with_options(
        model__backbone__depth=18,
        data__train__pipeline__1__img_scale__0=7,
        optimizer__weight_decay=0.1,
        fp16__loss_scale=512,
    )

    assert config.data["model"]["backbone"] == {"type": "ResNet", "depth": 18}
    assert config.data["data"]["train"]["pipeline"][1]["img_scale"] == (7, 20)
    assert config.data["fp16"] == {"loss_scale": 512}
    assert str(config.origins["model.backbone.depth"]) == "--cfg-options"
    assert config.origins["model.backbone.type"].line == 3
    assert config.notes == ()


def test_delete_replaces_a_dict() -> None:
    config = with_options(model__backbone___delete_=True, model__backbone__type="VGG")

    assert config.data["model"]["backbone"] == {"type": "VGG"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modle.backbone.depth": 1}, r"no top-level key 'modle'; did you mean model"),
        ({"optimzer.lr": 1}, r"did you mean optimizer"),
        ({"optimizer.lr.x": 1}, r"optimizer\.lr is a dict here but 0\.1 in <text>:2"),
        ({"data.train.pipeline.2.type": 1}, r"expected an index from 0 to 1"),
        ({"model.neck": 1, "model.neck.type": 2}, "reaches into a value that another option gives"),
        ({"model.neck.type": 2, "model.neck": 1}, "replaces what another option reaches into"),
    ],
)
def test_overrides_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_text(CONFIG, options=options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer.lr": 0.1}, "the config already gives 0.1"),
        ({"data.train.pipeline.1.img_scale": (10, 20)}, "the config already gives"),
        ({"rate": 0.5}, "'rate' is a variable of the config file"),
        ({"model.backbon.depth": 18}, "adds the new dict 'backbon' beside the existing 'backbone'"),
        ({"model.backbone.deph": 18}, "adds the new key 'deph' beside the existing 'depth'"),
    ],
)
def test_overrides_without_effect_are_reported(
    options: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_from_text(CONFIG, options=options)

    assert message in config.notes[0]
    assert message in caplog.text


def test_true_is_not_one() -> None:
    config = config_from_text("seed = 1", options={"seed": True})

    assert config.data["seed"] is True
    assert config.notes == ()
