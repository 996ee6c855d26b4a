"""Deep merge."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detector.config.merge import merge
from detector.config.origin import Origin
from detector.errors import ConfigError

BASE, CHILD = Origin("base.py", 1), Origin("child.py", 2)
leaves = st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
trees = st.dictionaries(
    st.sampled_from("abc"), leaves | st.dictionaries(st.sampled_from("xyz"), leaves, max_size=3), max_size=3
)


def merged(child: dict[str, Any], base: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    return merge((child, CHILD), (base, BASE), **kwargs)[0]


@pytest.mark.parametrize(
    ("child", "base", "expected"),
    [
        ({"a": {"y": 2}}, {"a": {"x": 1}}, {"a": {"x": 1, "y": 2}}),
        ({"a": {"_delete_": True, "y": 2}}, {"a": {"x": 1}}, {"a": {"y": 2}}),
        ({"a": {"_delete_": False, "y": 2}}, {"a": {"x": 1}}, {"a": {"x": 1, "y": 2}}),
        ({"a": {"_delete_": True, "y": 2}}, {"a": 5}, {"a": {"y": 2}}),
        ({"a": {"_delete_": True, "b": {"_delete_": True, "y": 2}}}, {}, {"a": {"b": {"y": 2}}}),
        ({"a": [1]}, {"a": [2, 3]}, {"a": [1]}),
        ({"a": None}, {"a": {"x": 1}}, {"a": None}),
    ],
)
def test_merge(child: dict[str, Any], base: dict[str, Any], expected: dict[str, Any]) -> None:
    assert merged(child, base) == expected


def test_neither_side_is_changed() -> None:
    child, base = {"a": {"_delete_": True, "y": 2}, "l": {"0": 9}}, {"a": {"x": 1}, "l": [1]}

    merged(child, base, into_lists=True)

    assert (child, base) == ({"a": {"_delete_": True, "y": 2}, "l": {"0": 9}}, {"a": {"x": 1}, "l": [1]})


def test_digits_reach_into_lists_only_for_overrides() -> None:
    base = {"p": [{"t": 1}, {"t": 2, "s": (3, 4)}]}

    assert merged({"p": {"1": {"t": 5, "s": {"0": 6}}}}, base, into_lists=True) == {
        "p": [{"t": 1}, {"t": 5, "s": (6, 4)}]
    }
    with pytest.raises(ConfigError, match=r"child\.py:2: p is a dict here but \[.*base\.py:1"):
        merged({"p": {"1": {"t": 5}}}, base)
    with pytest.raises(ConfigError, match="an index from 0 to 1"):
        merged({"p": {"2": 1}}, base, into_lists=True)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees, trees)
def test_child_wins_and_nothing_of_the_base_is_lost(child: dict[str, Any], base: dict[str, Any]) -> None:
    clash = any(isinstance(v, dict) and k in base and not isinstance(base[k], dict) for k, v in child.items())
    if clash:
        with pytest.raises(ConfigError):
            merged(child, base)
        return
    result, tree = merge((child, CHILD), (base, BASE))

    assert result.keys() == child.keys() | base.keys()
    assert merged({}, base) == base
    assert merged(child, result) == result
    if result:
        assert isinstance(tree, dict)
        assert tree.keys() == result.keys()
