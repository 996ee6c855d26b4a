"""Legacy keys, loaders, runner, references and the data root."""

from __future__ import annotations

from typing import Any

import pytest

from detector.config.load import config_from_text
from detector.config.run_settings import replace_image_to_tensor
from detector.errors import ConfigError

TENSOR = dict(type="ImageToTensor", keys=["img"])
BUNDLE = dict(type="DefaultFormatBundle")


def loaders(data: str) -> dict[str, Any]:
    values = config_from_text(f"data = {data}").data["data"]
    return {split: values[f"{split}_dataloader"] for split in ("train", "val", "test")}


def size(samples: int, workers: int = 2) -> dict[str, int]:
    return dict(samples_per_gpu=samples, workers_per_gpu=workers)


@pytest.mark.parametrize(
    ("data", "train", "val", "test"),
    [
        ("dict()", size(2), size(1), size(1)),
        ("dict(samples_per_gpu=4, workers_per_gpu=3)", size(4, 3), size(1, 3), size(1, 3)),
        ("dict(imgs_per_gpu=5)", size(5), size(1), size(1)),
        ("dict(val=dict(samples_per_gpu=2), test=dict(samples_per_gpu=3))", size(2), size(2), size(3)),
        ("dict(test=[dict(samples_per_gpu=3), dict(samples_per_gpu=5)])", size(2), size(1), size(5)),
        ("dict(test_dataloader=dict(samples_per_gpu=6, workers_per_gpu=0))", size(2), size(1), size(6, 0)),
    ],
)
def test_loader_sizes(data: str, train: dict[str, int], val: dict[str, int], test: dict[str, int]) -> None:
    assert loaders(data) == {"train": train, "val": val, "test": test}


def test_old_places_are_emptied() -> None:
    data = config_from_text(
        "data = dict(samples_per_gpu=4, persistent_workers=True, val=dict(samples_per_gpu=2, a=1))"
    ).data["data"]

    assert data.keys() == {"val", "train_dataloader", "val_dataloader", "test_dataloader"}
    assert data["val"] == {"a": 1}
    assert data["train_dataloader"]["persistent_workers"] is True


@pytest.mark.parametrize(
    "data",
    [
        "dict(samples_per_gpu=4, train_dataloader=dict(samples_per_gpu=4))",
        "dict(val=dict(samples_per_gpu=4), val_dataloader=dict(samples_per_gpu=4))",
    ],
)
def test_a_size_in_two_places_is_an_error(data: str) -> None:
    with pytest.raises(ConfigError, match="are both given"):
        loaders(data)


def test_runner_from_total_epochs() -> None:
    config = config_from_text("optimizer = dict(type='SGD')\ntotal_epochs = 7")

    assert config.data["runner"] == {"type": "EpochBasedRunner", "max_epochs": 7}
    assert config.origins["runner.max_epochs"].line == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer = dict(type='SGD')", "an optimizer but no runner"),
        (
            "runner = dict(type='EpochBasedRunner', max_epochs=3)\ntotal_epochs = 7",
            ":2: total_epochs = 7 contradicts",
        ),
        ("data = [1]", ":1: data is"),
    ],
)
def test_run_settings_that_contradict(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_text(text)


def test_batches_take_the_format_bundle() -> None:
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="MultiScaleFlipAug", flip=False, transforms=[TENSOR]),
    ]

    result = replace_image_to_tensor(pipeline)

    assert result[1] == dict(type="MultiScaleFlipAug", flip=False, transforms=[BUNDLE])
    assert pipeline[1]["transforms"] == [TENSOR]


@pytest.mark.parametrize(("samples", "last"), [(1, TENSOR), (2, BUNDLE)])
def test_image_to_tensor_rule_follows_the_batch_size(samples: int, last: dict[str, Any]) -> None:
    one = f"dict(pipeline=[{TENSOR}])"
    text = f"data = dict(test=dict(type='RepeatDataset', dataset={one}), val={one})"

    data = config_from_text(text, options={"data.test_dataloader.samples_per_gpu": samples}).data["data"]

    assert data["test"]["dataset"]["pipeline"] == [last]
    assert data["val"]["pipeline"] == [TENSOR]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\noptimzer = dict(type='SGD')", r"^<text>:2: unknown key 'optimzer'.*'optimizer'"),
        (
            "data = dict(\n    sample_per_gpu=2)",
            r"^<text>:2: unknown key 'data\.sample_per_gpu' \(did you mean",
        ),
        ("data = dict(training=dict())", r"unknown key 'data\.training'.*expected one of .*train"),
    ],
)
def test_misspelt_keys_of_a_file(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_text(text)


def test_variables_of_a_file_are_no_misspelt_keys() -> None:
    names = [
        "train_pipeline",
        "data_root",
        "dataset_type",
        "custom_keys",
        "checkpoint_file",
        "max_epochs",
        "img_scale",
    ]

    assert list(config_from_text("\n".join(f"{name} = 1" for name in names)).data) == names


def test_references_keep_their_type_and_fill_strings() -> None:
    config = config_from_text(
        "a = dict(b=[1, dict(c=2.5)])\nx = '${a.b}'\ny = dict(z='n${a.b.1.c}-${a.b.0}')\nw = ['${y.z}']\n"
        "model = dict(type='A')\nmodel_wrapper = dict(type='W', model='${model}')"
    )

    assert config.data["x"] == [1, {"c": 2.5}]
    assert (config.data["y"]["z"], config.data["w"]) == ("n2.5-1", ["n2.5-1"])
    assert config.data["model"] == {"type": "W", "model": {"type": "A"}}
    assert config.origins["x.1.c"].line == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = '${b.c}'", r"\$\{b\.c\} names no value"),
        ("a = dict(b=1)\nc = 'x${a}'", "names a dict"),
        ("a = '${b}'\nb = '${a}'", "refers to itself"),
    ],
)
def test_references_that_lead_nowhere(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_text(text)


def test_data_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMDET_DATASETS", "/store/")

    config = config_from_text(
        "data_root = 'data/x/'\ndata = dict(train=dict(f=data_root + 'a.json', l=[data_root]))"
    )

    assert config.data["data"]["train"] == {"f": "/store/a.json", "l": ["data/x/"]}
    assert config.data["data_root"] == "/store/"
    assert "MMDET_DATASETS" in config.notes[0]
