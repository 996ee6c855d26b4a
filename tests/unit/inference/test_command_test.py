"""``detector test``: a wrong request is refused before an image is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detector import cli
from detector.engine import evaluate

CONFIG = """
model = dict(type='FasterRCNN', roi_head=dict(type='StandardRoIHead', mask_head={mask_head!r}))
pipeline = [dict(type='LoadImageFromFile')]
data = dict(test=dict(type='CocoDataset', classes=('cat',), ann_file={ann!r}, img_prefix={images!r},
                      pipeline=pipeline))
"""
BOX = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20], "area": 400, "iscrowd": 0}


def write(folder: Path, *, annotated: bool = True, masks: bool = False) -> str:
    """A config of one image; returns its path."""
    (folder / "images").mkdir()
    cv2.imwrite(str(folder / "images" / "a.png"), np.zeros((40, 50, 3), np.uint8))
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 50}],
        "annotations": [BOX] if annotated else [],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (folder / "ann.json").write_text(json.dumps(content))
    mask_head = {"type": "FCNMaskHead"} if masks else None
    text = CONFIG.format(mask_head=mask_head, ann=str(folder / "ann.json"), images=str(folder / "images"))
    (folder / "config.py").write_text(text)
    return str(folder / "config.py")


@pytest.mark.parametrize(
    ("arguments", "options", "named"),
    [
        (["--format-only"], {}, ["--format-only", "jsonfile_prefix"]),
        (["--eval", "bboxes"], {}, ["--eval.bboxes", "Did you mean 'bbox'"]),
        (["--eval", "segm"], {}, ["--eval segm", "no mask head"]),
        (
            ["--eval", "bbox", "--eval-options", "classwize=True"],
            {},
            ["--eval-options.classwize", "'classwise'"],
        ),
        (["--eval", "bbox", "--eval-options", "classwise"], {}, ["--eval-options: found 'classwise'"]),
        (["--eval", "bbox", "--options", "classwise"], {}, ["--options: found 'classwise'"]),
        (["--eval", "bbox"], {"annotated": False}, ["no annotations", "--format-only"]),
        (["--eval", "cityscapes"], {"masks": True}, ["cityscapes", "gt_dir"]),
        (
            ["--eval", "cityscapes", "--eval-options", "gt_dir=nowhere"],
            {"masks": True},
            ["nowhere: found no such"],
        ),
        (
            ["--format-only", "--eval-options", "txtfile_prefix=x"],
            {},
            ["txtfile_prefix", "neither Cityscapes'"],
        ),
        (["--show-dir", "images"], {}, ["images/a.png would replace"]),
    ],
    ids=str,
)
def test_a_wrong_request_is_refused_before_inference(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    options: dict[str, Any],
    named: list[str],
) -> None:
    def inference(*_: Any, **__: Any) -> None:
        raise AssertionError("the images were run")

    monkeypatch.setattr(evaluate, "test", inference)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["test", write(tmp_path, **options), "model.pth", *arguments]) == 1
    printed = capsys.readouterr().err
    assert [part for part in named if part not in printed] == [], printed


@pytest.mark.parametrize("command", [["test", "c.py", "m.pth", "--eval", "bbox"], ["train", "c.py"]])
def test_a_launcher_that_is_not_known_is_no_choice(command: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command, "--launcher", "horovod"])
    assert stopped.value.code == 2
