"""All published config files of MMDetection 2.28.2 read to the values that mmengine gets by running them.

The files come with the mmdet wheel, which is never imported; the oracle is ``mmengine.Config.fromfile``.
"""

from __future__ import annotations

import importlib.util
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from detector.config import config_from_text, load_config
from detector.config.overrides import parse_value
from detector.config.read import RESERVED_KEYS, read_file

PROJECT = Path(__file__).resolve().parents[2]
BCCD = PROJECT / "tests" / "unit" / "config" / "faster_rcnn_r18_bccd.py"

# configs whose values may differ, with the reason
EXCEPTIONS: dict[str, str] = {}


def zoo_folder() -> Path:
    spec = importlib.util.find_spec("mmdet")
    assert spec is not None, "the dev group's mmdet wheel is missing: run uv sync"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / ".mim" / "configs"


ZOO = zoo_folder()
FILES = sorted(p.relative_to(ZOO).as_posix() for p in ZOO.rglob("*.py") if "_base_" not in p.parts)


def typed(value: Any) -> Any:
    """A form in which lists and tuples, 1 and 1.0 and True differ, and dict subclasses do not."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, [typed(item) for item in value])
    return (type(value).__name__, value)


def by_running(path: Path) -> dict[str, Any]:
    from mmengine.config import Config as MmConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(MmConfig.fromfile(path, import_custom_modules=False)._cfg_dict)


def test_the_wheel_holds_the_whole_zoo() -> None:
    assert len(FILES) == 634


@pytest.mark.parametrize("name", FILES)
def test_values_equal_those_of_running_the_file(name: str) -> None:
    if name in EXCEPTIONS:
        pytest.xfail(EXCEPTIONS[name])
    expected = {key: value for key, value in by_running(ZOO / name).items() if key not in RESERVED_KEYS}

    assert typed(read_file(ZOO / name).data) == typed(expected)


@pytest.mark.parametrize("name", FILES[::25])
def test_text_of_the_effective_config_reads_back(name: str) -> None:
    config = load_config(ZOO / name)

    again = config_from_text(config.text())

    assert typed(again.data) == typed(config.data)
    assert again.sha256() == config.sha256()
    assert config.origins.keys() == again.origins.keys()


def test_the_bccd_config_reads_to_the_same_values() -> None:
    assert typed(read_file(BCCD).data) == typed(by_running(BCCD))


def test_reading_is_fast() -> None:
    names = FILES[::20]
    start = time.process_time()

    _ = [load_config(ZOO / name) for name in names]

    per_config = (time.process_time() - start) / len(names)
    assert per_config < 60 / 634, (
        f"{per_config:.3f} s for a config; the whole zoo must take less than a minute"
    )


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "1e-3",
        "true",
        "None",
        "abc",
        "1,2,3",
        "[a,b]",
        "(1,2)",
        "[(1,2),[a,b],c]",
        "'x'",
        "[1, 2]",
        "a,",
        "[]",
        "()",
        "-5",
    ],
)
def test_option_values_equal_mmengines(text: str) -> None:
    from mmengine.config import DictAction

    assert typed(parse_value(text)) == typed(DictAction._parse_iterable(text))
