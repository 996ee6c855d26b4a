"""Names, families and paths."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from detector.config.resolve import FAMILIES, config_names, resolve_config
from detector.errors import ConfigError

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def in_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)


@pytest.mark.parametrize(
    ("name", "dataset", "expected"),
    [
        ("mask_rcnn", None, "configs/mask_rcnn/mask_rcnn_r18_fpn_sample.py"),
        ("mask_rcnn", "sample", "configs/mask_rcnn/mask_rcnn_r18_fpn_sample.py"),
        ("mask_rcnn", "cityscapes", "configs/cityscapes/mask_rcnn_r50_fpn_1x_cityscapes.py"),
        ("faster_rcnn", "voc", "configs/pascal_voc/faster_rcnn_r50_fpn_1x_voc0712.py"),
        ("mask_rcnn_r50_fpn_1x_coco", None, "configs/mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py"),
        ("mask_rcnn_r50_fpn_1x_coco.py", None, "configs/mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py"),
        ("mask_rcnn/mask_rcnn_r50_fpn_1x_coco", None, "configs/mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py"),
        (
            "configs/mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py",
            "voc",
            "configs/mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py",
        ),
    ],
)
def test_resolve(name: str, dataset: str | None, expected: str) -> None:
    assert resolve_config(name, dataset) == Path(expected)


@pytest.mark.parametrize(
    ("name", "dataset", "message"),
    [
        ("mask_rccn", None, "Did you mean mask_rcnn"),
        ("mask_rcnn_r50_fpn_1x_cocoo", None, "Did you mean mask_rcnn_r50_fpn_1x_coco"),
        ("mask_rcnn", "cityscape", "Did you mean cityscapes"),
        (
            "configs/mask_rcnn/mask_rcnn_r50_fpn_1x_koko.py",
            None,
            r"no such file.*Did you mean mask_rcnn_r50_fpn_1x_coco\.py",
        ),
        ("nowhere/at/all.py", None, "found neither a file nor a name"),
    ],
)
def test_unknown_names_get_the_nearest(name: str, dataset: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_config(name, dataset)


def test_configs_of_another_folder_come_first_when_it_has_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert resolve_config("mask_rcnn") == PROJECT / "configs/mask_rcnn/mask_rcnn_r18_fpn_sample.py"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.py").write_text("a = 1")
    assert resolve_config("mine") == Path("configs/mine.py")


def test_every_family_entry_is_a_config_and_names_are_unique() -> None:
    names = config_names()

    assert set(FAMILIES.values()) <= names.keys()
    assert all(len(files) == 1 for files in names.values())


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, detector.config; assert not {'torch', 'numpy', 'mmengine'} & sys.modules.keys()"

    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT)
