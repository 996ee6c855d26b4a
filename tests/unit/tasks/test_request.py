from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from detector.errors import DatasetError
from tasks.request import DataRequest, Request, dataset_paths

CONFIG = """
data_root = 'data/toy/'
images = data_root + 'images/'
data = dict(
    train=dict(type='CocoDataset', ann_file=data_root + 'annotations/train.json', img_prefix=images),
    val=dict(type='CocoDataset', ann_file=data_root + 'annotations/val.json', img_prefix=images),
    test=dict(type='CocoDataset', ann_file=data_root + 'annotations/val.json', img_prefix=images))
model = dict(type='X', test_cfg=dict(score_thr=0.05))
optimizer = dict(type='SGD', lr=0.1)
runner = dict(type='EpochBasedRunner', max_epochs=2)
evaluation = dict(interval=1)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTOR_DATASETS", raising=False)
    monkeypatch.delenv("MMDET_DATASETS", raising=False)
    (tmp_path / "configs" / "sources").mkdir(parents=True)
    (tmp_path / "configs" / "sources" / "toy.yaml").write_text("dataset: toy\n")
    (tmp_path / "configs" / "toy.py").write_text(CONFIG)
    for name in ("annotations/train.json", "annotations/val.json", "images/a.png"):
        path = tmp_path / "data" / "toy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def test_family_and_full_name_share_everything() -> None:
    family = Request("mask_rcnn", "sample")
    full = Request("mask_rcnn_r18_fpn_sample", "ignored")
    assert family.run_dir == full.run_dir == Path("runs/mask_rcnn_r18_fpn_sample/seed0")
    assert family.settings() == full.settings()
    assert family.data == full.data == DataRequest("sample")


def test_data_of_a_config_is_found_from_its_paths(project: Path) -> None:
    assert Request("configs/toy.py").data == DataRequest("toy")


def test_data_elsewhere_is_nobodys(project: Path) -> None:
    (project / "configs" / "own.py").write_text(CONFIG.replace("data/toy/", "/my/images/"))
    assert Request("configs/own.py").data is None


def test_folder_below_data_without_a_source_is_the_users_own(project: Path) -> None:
    (project / "configs" / "own.py").write_text(CONFIG.replace("data/toy/", "data/mine/"))
    assert Request("configs/own.py").data is None


def test_inputs_change_with_the_content_of_images_and_annotations(project: Path) -> None:
    before = Request("configs/toy.py").inputs("train")
    assert set(before) == {"data/toy/annotations/train.json", "data/toy/images"}
    (project / "data/toy/images/a.png").write_text("other pixels")
    assert Request("configs/toy.py").inputs("train") != before


def test_missing_data_says_what_to_type(project: Path) -> None:
    (project / "data/toy/annotations/train.json").unlink()
    with pytest.raises(DatasetError, match=r"train\.json does not exist.*tasks prepare --dataset toy"):
        Request("configs/toy.py").inputs("train")


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("lr=0.1", "lr=0.2", False),
        ("max_epochs=2", "max_epochs=3", False),
        ("evaluation = dict(interval=1)", "evaluation = dict(interval=2)", True),
        ("lr=0.1)", "lr=0.1)  # as published", True),
    ],
)
def test_settings_without_some_keys(project: Path, old: str, new: str, same: bool) -> None:
    before = Request("configs/toy.py").settings(without=["evaluation", "data.val"])
    (project / "configs" / "toy.py").write_text(CONFIG.replace(old, new))
    assert (Request("configs/toy.py").settings(without=["evaluation", "data.val"]) == before) is same


def test_epochs_replace_the_length_of_the_schedule(project: Path) -> None:
    request = replace(Request("configs/toy.py"), epochs=7)
    assert request.loaded.data["runner"]["max_epochs"] == 7
    assert request.settings() != Request("configs/toy.py").settings()


def test_paths_of_wrapped_and_listed_datasets() -> None:
    inner = {
        "type": "CocoDataset",
        "data_root": "root",
        "ann_file": ["a.json", "b.json"],
        "img_prefix": "/abs",
    }
    cfg = {
        "type": "RepeatDataset",
        "times": 2,
        "dataset": {"type": "ConcatDataset", "datasets": [inner, inner]},
    }
    assert dataset_paths(cfg) == [Path("root/a.json"), Path("root/b.json"), Path("/abs")]


def test_store_comes_from_the_environment(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert DataRequest().store_path == project / ".datasets"
    monkeypatch.setenv("DETECTOR_DATASETS", "/big/disk")
    assert DataRequest().store_path == Path("/big/disk")
    assert DataRequest(store="/other").store_path == Path("/other")


def test_source_in_git_comes_before_an_old_copy_of_it(project: Path) -> None:
    before = DataRequest("toy").recipe()
    (project / "data" / "sources").mkdir()
    (project / "data" / "sources" / "toy.yaml").write_text("dataset: toy\nseed: 1\n")
    assert DataRequest("toy").recipe() == before
    (project / "configs" / "sources" / "toy.yaml").unlink()
    assert DataRequest("toy").recipe() not in ({}, before)
