"""Text and digest of a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detector.config import config_from_text, load_config
from detector.config.read import read_text
from detector.config.text import digest, format_config

BCCD = Path(__file__).parent / "faster_rcnn_r18_bccd.py"
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"))
)
scalars = scalars.filter(lambda v: not (isinstance(v, str) and ("{{" in v or "\x00" in v or "${" in v)))
keys = st.text(min_size=1, max_size=5) | st.sampled_from(["type", "class", "a.b", "lr"])
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


def typed(value: Any) -> Any:
    """A form in which (1,) and [1], 1 and 1.0 and True differ."""
    if isinstance(value, dict):
        return {"dict": {k: typed(v) for k, v in value.items()}}
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(typed, value)]
    return (type(value).__name__, repr(value))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["a", "model", "_x"]), values))
def test_text_reads_back_to_the_same_values(data: dict[str, Any]) -> None:
    text = format_config(data)
    if "{{" in text:  # {{...}} of nested literal dicts; see the next test
        return

    assert typed(read_text(text).data) == typed(data)
    assert digest(read_text(text).data) == digest(data)


def test_a_real_config_reads_back_with_its_normalised_loaders() -> None:
    config = load_config(BCCD)

    again = config_from_text(config.text(), name="checkpoint")

    assert typed(again.data) == typed(config.data)
    assert again.text() == config.text()
    assert again.sha256() == config.sha256()
    assert max(map(len, config.text().splitlines())) <= 110


def test_layout() -> None:
    text = format_config(
        {"a": {"type": "T", "n": (1,)}, "b": {"x y": [1.5, float("inf")]}, "c": {"k": ["v" * 60, "w" * 60]}}
    )

    assert text.splitlines() == [
        "a = dict(type='T', n=(1,))",
        "b = {'x y': [1.5, float('inf')]}",
        "c = dict(",
        "    k=[",
        f"        '{'v' * 60}',",
        f"        '{'w' * 60}',",
        "    ],",
        ")",
    ]


def test_digest_of_sections() -> None:
    one = config_from_text("model = dict(a=1, b=(2,))\nlog_level = 'INFO'")
    other = config_from_text("log_level = 'DEBUG'\nmodel = dict(b=(2,), a=1)")
    third = config_from_text("model = dict(a=1, b=[2])")

    assert one.sha256("model", "fp16") == other.sha256("model", "fp16")
    assert one.sha256() != other.sha256()
    assert one.sha256("model") != third.sha256("model")
    assert len(one.sha256()) == 64


@pytest.mark.parametrize("key", ["model.backbone.depth", "data.train.pipeline.0.type", "runner.max_epochs"])
def test_bccd_config_origins(key: str) -> None:
    config = load_config(BCCD)

    assert Path(config.origins[key].file).name == BCCD.name
    assert config.origins[key].line > 0
    assert config.data["data"]["train_dataloader"] == {"samples_per_gpu": 4, "workers_per_gpu": 1}
