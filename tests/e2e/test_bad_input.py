"""What a user gets wrong, and the one paragraph that answers: where, what, what was expected, what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from detector.cli import main
from detector.data.synthetic import Recipe, write_coco

BASE = Path(__file__).parents[2] / "configs" / "mask_rcnn" / "mask_rcnn_r18_fpn_sample.py"
CLASSES = ("person", "bicycle", "car", "motorcycle", "bus", "train", "truck")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny data set in COCO's layout."""
    root = tmp_path_factory.mktemp("bad") / "coco"
    write_coco(root, recipe=Recipe(seed=1, train=4, val=2, test=0, height=96, width=160))
    return root


@pytest.fixture
def project(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own holding that data set and a config for it."""
    shutil.copytree(clean, tmp_path / "coco")
    split = (
        "dict(type='CocoDataset', classes={c!r}, ann_file='coco/annotations/instances_{s}.json', "
        "img_prefix='coco/{s}')"
    )
    splits = {s: split.format(c=CLASSES, s=f"{s}2017") for s in ("train", "val")}
    (tmp_path / "tiny.py").write_text(
        f"_base_ = {str(BASE)!r}\n"
        "model = dict(roi_head=dict(bbox_head=dict(num_classes=7), mask_head=dict(num_classes=7)))\n"
        f"data = dict(workers_per_gpu=0, train={splits['train']},\n"
        f"            val={splits['val']}, test={splits['val']})\n"
        "runner = dict(max_epochs=1)\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def annotations(project: Path) -> Path:
    return project / "coco" / "annotations" / "instances_train2017.json"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def no_data(project: Path) -> list[str]:
    shutil.rmtree(project / "coco")
    return []


def no_images(project: Path) -> list[str]:
    shutil.rmtree(project / "coco" / "train2017")
    return []


def no_val_images(project: Path) -> list[str]:
    shutil.rmtree(project / "coco" / "val2017")
    return []


def no_val_objects(project: Path) -> list[str]:
    edit(annotations(project).with_name("instances_val2017.json"), annotations=[])
    return []


def empty_split(project: Path) -> list[str]:
    edit(annotations(project), images=[], annotations=[])
    return []


def not_json(project: Path) -> list[str]:
    annotations(project).write_text("{cut off")
    return []


def other_class_name(project: Path) -> list[str]:
    found = json.loads(annotations(project).read_text())["categories"]
    edit(annotations(project), categories=[c | {"name": c["name"].replace("car", "carr")} for c in found])
    return []


def unreadable_image(project: Path) -> list[str]:
    for image in (project / "coco" / "train2017").iterdir():
        image.write_bytes(image.read_bytes()[:40])
    return []


def option(text: str) -> Any:
    def give(project: Path) -> list[str]:
        return ["--cfg-options", text]

    return give


BAD_TRAINING = {
    "missing data root": (no_data, ["instances_train2017.json", "does not exist", "Prepare or convert"]),
    "missing images": (no_images, ["coco/train2017", "does not exist", "4 images", "link"]),
    "empty split": (empty_split, ["instances_train2017.json", "empty", "At least one image"]),
    "annotations not JSON": (not_json, ["instances_train2017.json", "not JSON", "line 1 column 2", "again"]),
    "class name": (other_class_name, ["no category named 'car'", "'carr'", "Set classes"]),
    "unreadable image": (
        unreadable_image,
        ["train2017/", "40 bytes", "A complete JPEG or PNG", "corrupt='skip'"],
    ),
    "unknown model key": (
        option("model.rpn_head.feat_chanels=3"),
        ["model.rpn_head", "'feat_channels'", "accepted"],
    ),
    "unknown top-level key": (option("modle.neck=3"), ["modle", "did you mean model"]),
    "unknown type": (option("model.neck.type=FPM"), ["model.neck.type", "'FPM'", "'FPN'"]),
    "unknown dataset": (option("data.train.type=CocoDatset"), ["data.train", "CocoDatset", "CocoDataset"]),
    "unknown optimizer": (option("optimizer.type=AdmW"), ["optimizer", "AdmW", "AdamW"]),
    "class count": (option("model.roi_head.bbox_head.num_classes=80"), ["80", "7"]),
    "class count of masks": (option("model.roi_head.mask_head.num_classes=80"), ["mask_head", "80", "7"]),
    "missing val images": (no_val_images, ["coco/val2017", "does not exist", "2 images", "link"]),
    "val without objects": (no_val_objects, ["instances_val2017.json", "no object", "--no-validate"]),
    "val classes": (
        option("data.val.classes=[bicycle,person]"),
        ["data.val", "bicycle, person", "data.train"],
    ),
    "unknown metric": (option("evaluation.metric=bbx"), ["evaluation.metric", "'bbx'", "'bbox'"]),
    "unknown evaluation key": (option("evaluation.clas_wise=True"), ["clas_wise", "'classwise'"]),
    "masks of a box model": (option("model.roi_head.mask_head=None"), ["segm", "no mask head", "bbox"]),
    "unknown loader key": (option("data.train_dataloader.shufle=1"), ["data.train_dataloader", "shufle"]),
    "step as text": (option("lr_config.step=eight"), ["lr_config.step", "'eight'", "without quotes"]),
    "negative seed": (lambda project: ["--seed", "-1"], ["seed", "-1", "whole number from 0"]),
}


@pytest.mark.parametrize("case", BAD_TRAINING)
def test_training_refuses(case: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, expected = BAD_TRAINING[case]
    code = main(["train", "tiny.py", "--work-dir", "work", *spoil(project)])
    printed = capsys.readouterr().err
    assert code == 1
    assert not [words for words in expected if words not in printed], printed
    assert "Traceback" not in printed
    assert any(Path("work").glob("*.log.json")) is (case == "unreadable image")  # no other run began


BAD_TEST = {
    "missing checkpoint": ("nothing.pth", None, ["nothing.pth", "no such checkpoint"]),
    "not a checkpoint": ("text.pth", b"hello", ["text.pth", "cannot be read as a checkpoint"]),
}


@pytest.mark.parametrize("case", BAD_TEST)
def test_testing_refuses(case: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, content, expected = BAD_TEST[case]
    if content is not None:
        (project / name).write_bytes(content)
    assert main(["test", "tiny.py", name, "--eval", "bbox"]) == 1
    printed = capsys.readouterr().err
    assert not [words for words in expected if words not in printed], printed
    assert "Traceback" not in printed


def test_a_checkpoint_of_other_classes_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from detector.build import build_model
    from detector.config import load_config

    counts = {f"model.roi_head.{head}.num_classes": 3 for head in ("bbox_head", "mask_head")}
    model = build_model(load_config("tiny.py", counts).data["model"], training=False)
    torch.save({"meta": {}, "state_dict": model.state_dict()}, "other.pth")
    assert main(["test", "tiny.py", "other.pth", "--eval", "bbox"]) == 1
    printed = capsys.readouterr().err
    assert "roi_head.bbox_head.fc_cls.weight" in printed
    assert "classes" in printed


def test_skipping_an_unreadable_image_names_it_once(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = sorted((project / "coco" / "val2017").iterdir())[0]
    broken.write_bytes(b"not an image")
    options = ["img_prefix=coco/val2017", "ann_file=coco/annotations/instances_val2017.json", "corrupt=skip"]
    arguments = [
        "--no-validate",
        "--cfg-options",
        "runner.max_epochs=2",
        *(f"data.train.{o}" for o in options),
    ]
    assert main(["train", "tiny.py", "--work-dir", "work", *arguments]) == 0
    assert caplog.text.count(broken.name) == 1


def test_verbose_adds_the_traceback(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    no_data(project)
    assert main(["--verbose", "train", "tiny.py", "--work-dir", "work"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_config_in_its_work_dir_stays_and_other_classes_do_not_resume(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (project / "tiny.py").read_bytes()
    arguments = ["train", "tiny.py", "--work-dir", ".", "--no-validate", "--device", "cpu"]
    assert main([*arguments, "--cfg-options", "opencv_num_threads=2"]) == 0
    assert (project / "tiny.py").read_bytes() == before
    assert "without effect here: opencv_num_threads=2" in next(project.glob("*.log")).read_text()
    capsys.readouterr()
    swapped = "data.train.classes=[bicycle,person,car,motorcycle,bus,train,truck]"
    resume = ["--resume-from", "latest.pth", "--cfg-options", swapped, "runner.max_epochs=2"]
    assert main([*arguments, *resume]) == 1
    printed = capsys.readouterr().err
    assert "latest.pth: trained for 7 classes (person, bicycle" in printed
