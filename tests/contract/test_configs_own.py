"""The project's configs: those with a published namesake mean the same; all are in MMDetection's dialect."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import pytest

from detector.config import load_config
from detector.config.read import read_file
from detector.config.resolve import FAMILIES
from detector.config.run_settings import KNOWN_KEYS

PROJECT = Path(__file__).resolve().parents[2]
CONFIGS = PROJECT / "configs"
BCCD = PROJECT / "tests" / "unit" / "config" / "faster_rcnn_r18_bccd.py"
SPEC = importlib.util.find_spec("mmdet")
assert SPEC is not None
assert SPEC.submodule_search_locations
ZOO = Path(SPEC.submodule_search_locations[0]) / ".mim" / "configs"

ALL = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*.py") if "sources" not in p.parts)
NAMESAKES = [name for name in ALL if (ZOO / name).is_file()]
SMALL = ["mask_rcnn/mask_rcnn_r18_fpn_sample.py", "faster_rcnn/faster_rcnn_r18_fpn_sample.py"]


def typed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, [typed(item) for item in value])
    return (type(value).__name__, value)


FAMILIES_PROMISED = [
    "faster_rcnn",
    "mask_rcnn",
    "cascade_rcnn",
    "htc",
    "detectors",
    "scnet",
    "retinanet",
    "fcos",
    "ssd",
    "yolo",
    "yolox",
    "pascal_voc",
    "cityscapes",
    "lvis",
]


@pytest.mark.parametrize("family", FAMILIES_PROMISED)
def test_the_promised_families_have_configs_of_published_models(family: str) -> None:
    assert [name for name in NAMESAKES if name.startswith(f"{family}/")]


@pytest.mark.parametrize("name", sorted(set(FAMILIES.values())))
def test_family_names_lead_to_configs(name: str) -> None:
    assert [found for found in ALL if Path(found).stem == name]


@pytest.mark.parametrize("name", NAMESAKES)
def test_effective_values_equal_the_published_namesake(name: str) -> None:
    own, published = read_file(CONFIGS / name).data, read_file(ZOO / name).data

    assert typed({k: v for k, v in own.items() if k in KNOWN_KEYS}) == typed(
        {k: v for k, v in published.items() if k in KNOWN_KEYS}
    )


@pytest.mark.parametrize("name", NAMESAKES)
def test_variables_that_users_refer_to_have_the_published_names(name: str) -> None:
    own, published = read_file(CONFIGS / name).data, read_file(ZOO / name).data

    assert published.keys() <= own.keys()


@pytest.mark.parametrize("name", ALL)
def test_the_dialect_is_mmdetections(name: str) -> None:
    """Another reader of the dialect, which runs the file, gets the same values."""
    from mmengine.config import Config as MmConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = dict(MmConfig.fromfile(CONFIGS / name, import_custom_modules=False)._cfg_dict)

    assert typed(read_file(CONFIGS / name).data) == typed(expected)


def test_the_template_for_own_voc_data_is_the_bccd_run() -> None:
    own = load_config(CONFIGS / "faster_rcnn" / "faster_rcnn_r18_fpn_voc_template.py").data
    bccd = load_config(BCCD, {"model.backbone.init_cfg": None}).data

    assert typed(own["model"]) == typed(bccd["model"])
    assert [
        typed(own[key]) for key in ("optimizer", "optimizer_config", "lr_config", "runner", "evaluation")
    ] == [typed(bccd[key]) for key in ("optimizer", "optimizer_config", "lr_config", "runner", "evaluation")]
    assert own["data"]["train_dataloader"] == bccd["data"]["train_dataloader"]
    assert typed(own["data"]["train"]["pipeline"]) == typed(bccd["data"]["train"]["pipeline"])
    assert typed(own["data"]["test"]["pipeline"]) == typed(bccd["data"]["test"]["pipeline"])


@pytest.mark.parametrize("name", SMALL)
def test_sample_configs_fit_the_sample(name: str) -> None:
    config = load_config(CONFIGS / name)
    data, heads = config.data["data"], config.data["model"]["roi_head"]

    assert data["train"]["type"] == "CityscapesDataset"
    assert data["train"]["ann_file"] == "data/sample/annotations/instancesonly_filtered_gtFine_train.json"
    assert data["test"]["img_prefix"] == "data/sample/leftImg8bit/test/"
    assert data["train_dataloader"]["samples_per_gpu"] == 4
    assert [head["num_classes"] for head in (heads["bbox_head"], heads.get("mask_head")) if head] in (
        [8],
        [8, 8],
    )
    assert config.data["model"]["backbone"]["init_cfg"] is None
