"""Every pipeline of every published config builds, and so do the arguments of its data sets.

The files come with the mmdet wheel and are read as data.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from detector.config.read import read_file
from detector.data.datasets.catalog import DATASETS, WRAPPERS
from detector.data.naming import accepted_arguments
from detector.data.transforms import build_pipeline
from detector.errors import ConfigError

SPEC = importlib.util.find_spec("mmdet")
assert SPEC is not None
assert SPEC.submodule_search_locations
ZOO = Path(SPEC.submodule_search_locations[0]) / ".mim" / "configs"
FILES = sorted(p.relative_to(ZOO).as_posix() for p in ZOO.rglob("*.py") if "_base_" not in p.parts)

# configs whose pipelines do not build: part of the error, and why
PIPELINE_EXCEPTIONS = {
    "albu_example/mask_rcnn_r50_fpn_albu_1x_coco.py": ("Albu", "albumentations is no dependency"),
    "instaboost/": ("InstaBoost", "instaboostfast is no dependency"),
    "openimages/ssd300_32x8_36e_openimages.py": ("normed_bbox", "the published file misspells denorm_bbox"),
}
# data set types that do not exist here, and why
DATASET_EXCEPTIONS = {
    "OpenImagesDataset": "csv boxes with a class hierarchy and its own metric",
    "OpenImagesChallengeDataset": "csv boxes with a class hierarchy and its own metric",
}
#: keys of a section that are not its constructor's
SECTION_KEYS = {"type", "pipeline", "separate_eval"}


def sections(node: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """All data set sections below one, with their dotted paths."""
    if isinstance(node, list | tuple):
        for i, item in enumerate(node):
            yield from sections(item, f"{where}.{i}")
    elif isinstance(node, dict) and "type" in node:
        yield where, node
        for key in ("dataset", "datasets"):
            yield from sections(node.get(key), f"{where}.{key}")


@cache
def of_file(name: str) -> list[tuple[str, dict[str, Any]]]:
    data = read_file(ZOO / name).data["data"]
    return [found for split in ("train", "val", "test") for found in sections(data.get(split), split)]


def exception(name: str) -> tuple[str, str] | None:
    return next((why for start, why in PIPELINE_EXCEPTIONS.items() if name.startswith(start)), None)


def pipelines(name: str) -> list[tuple[str, Any]]:
    return [(where, section["pipeline"]) for where, section in of_file(name) if "pipeline" in section]


@pytest.mark.parametrize("name", [name for name in FILES if not exception(name)])
def test_pipelines_build(name: str) -> None:
    built = [build_pipeline(steps, where=where) for where, steps in pipelines(name)]

    assert len(built) >= 3


@pytest.mark.parametrize("name", [name for name in FILES if exception(name)])
def test_exceptions_are_refused_by_name(name: str) -> None:
    reason = exception(name)
    assert reason is not None
    with pytest.raises(ConfigError, match=rf"^train\..*'{reason[0]}'"):
        [build_pipeline(steps, where=where) for where, steps in pipelines(name)]


def test_there_are_as_many_exceptions_as_said() -> None:
    assert len(FILES) == 634
    assert len([name for name in FILES if exception(name)]) == 8


@pytest.mark.parametrize("name", FILES)
def test_data_sets_have_the_arguments(name: str) -> None:
    known = {**DATASETS, **WRAPPERS}
    for where, section in of_file(name):
        if section["type"] in DATASET_EXCEPTIONS:
            continue
        unknown = set(section) - SECTION_KEYS - set(accepted_arguments(known[section["type"]]))
        assert not unknown, f"{where}: {section['type']} lacks {unknown}"


def test_every_missing_type_is_listed() -> None:
    named = {section["type"] for name in FILES for _, section in of_file(name)}
    assert named - set(DATASETS) - set(WRAPPERS) == set(DATASET_EXCEPTIONS)
