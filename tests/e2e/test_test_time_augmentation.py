"""Several scales and mirrored views of each test image, from a config to results, on a generated data set."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detector import inference_detector, init_detector
from detector.checkpoint.files import save_checkpoint
from detector.cli import main
from detector.data.synthetic import Recipe, write_coco

CLASSES = ("person", "bicycle", "car", "motorcycle", "bus", "train", "truck")
CONFIG = """
_base_ = {base!r}
model = dict(
    roi_head=dict(bbox_head=dict(num_classes=7), mask_head=dict(num_classes=7)),
    test_cfg=dict(rpn=dict(max_per_img=50), rcnn=dict(score_thr=0.0, max_per_img=10)))
root = {root!r}
data = dict(test=dict(type='CocoDataset', classes={classes!r},
                      ann_file=root + '/annotations/instances_val2017.json', img_prefix=root + '/val2017'))
"""
INNER = "data.test.pipeline.1"
#: what MMDetection's users set to test with augmentation: every scale, as it is and mirrored
AUGMENTED = [f"{INNER}.img_scale=[(160, 96), (224, 128)]", f"{INNER}.flip=True"]
SINGLE = [f"{INNER}.img_scale=(160, 96)"]

SHARED = os.environ.get("DETECTOR_SHARED", "")
TRAINED = Path(SHARED) / "golden" / "checkpoint"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three images, config.py and model.pth of an untrained Mask R-CNN."""
    folder = tmp_path_factory.mktemp("views")
    write_coco(folder / "coco", recipe=Recipe(seed=1, train=0, val=3, test=0, height=96, width=160))
    base = Path(__file__).parents[2] / "configs" / "mask_rcnn" / "mask_rcnn_r18_fpn_sample.py"
    text = CONFIG.format(base=str(base), root=str(folder / "coco"), classes=CLASSES)
    (folder / "config.py").write_text(text)
    torch.manual_seed(0)
    model: Any = init_detector(folder / "config.py", device="cpu")
    model.init_weights()
    save_checkpoint(
        folder / "model.pth", {"state_dict": model.state_dict(), "meta": {"CLASSES": list(CLASSES)}}
    )
    return folder


def results_of(project: Path, name: str, options: list[str]) -> list[Any]:
    """What `detector test` finds, image by image."""
    out = project / f"{name}.pkl"
    arguments = ["test", str(project / "config.py"), str(project / "model.pth"), "--device", "cpu"]
    arguments += ["--out", str(out), "--eval", "bbox", "segm", "--work-dir", str(project / name)]
    assert main([*arguments, "--cfg-options", *options]) == 0
    found: list[Any] = pickle.loads(out.read_bytes())
    assert len(found) == 3
    return found


def rows(result: Any) -> np.ndarray:
    """Boxes of all classes."""
    return np.concatenate(result[0])


@pytest.mark.slow
def test_augmented_results_come_from_the_command_and_from_python_alike(project: Path) -> None:
    found = results_of(project, "augmented", AUGMENTED)
    options = dict(option.split("=", 1) for option in AUGMENTED)
    settings = {
        key: json.loads(value.replace("(", "[").replace(")", "]").lower()) for key, value in options.items()
    }
    settings[f"{INNER}.img_scale"] = [tuple(scale) for scale in settings[f"{INNER}.img_scale"]]
    model = init_detector(project / "config.py", project / "model.pth", "cpu", settings)
    images = sorted((project / "coco" / "val2017").glob("*"))
    for own, wanted in zip(inference_detector(model, [str(path) for path in images]), found, strict=True):
        assert len(rows(wanted)) == 10
        np.testing.assert_allclose(rows(own), rows(wanted), atol=1e-3)
        assert [mask["counts"] for of in own[1] for mask in of] == [
            m["counts"] for of in wanted[1] for m in of
        ]


@pytest.mark.slow
def test_the_batch_size_changes_nothing_and_the_views_do(project: Path) -> None:
    alone = results_of(project, "alone", AUGMENTED)
    batched = results_of(project, "batched", [*AUGMENTED, "data.test_dataloader.samples_per_gpu=2"])
    single = results_of(project, "single", SINGLE)
    for one, two in zip(alone, batched, strict=True):
        np.testing.assert_allclose(rows(one), rows(two), atol=1e-3)
    assert not any(np.allclose(rows(a), rows(b), atol=1e-3) for a, b in zip(alone, single, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(not SHARED, reason="DETECTOR_SHARED does not name the folder of the large files")
def test_a_mirrored_view_makes_a_trained_model_more_precise(tmp_path: Path) -> None:
    arguments = [
        "test",
        str(TRAINED / "faster_rcnn_r18_bccd.py"),
        str(TRAINED / "faster_rcnn_r18_bccd_epoch_4.pth"),
    ]
    options = [
        f"data.test.ann_file={TRAINED / 'annotations' / 'test.json'}",
        f"data.test.img_prefix={Path(SHARED) / 'data' / 'bccd' / 'JPEGImages'}",
        f"{INNER}.flip=True",
    ]
    assert main([*arguments, "--eval", "bbox", "--work-dir", str(tmp_path), "--cfg-options", *options]) == 0
    metrics = json.loads(next(tmp_path.glob("eval_*.json")).read_text())["metric"]
    expected = json.loads((TRAINED / "expected.json").read_text())["epoch_4"]["test"]
    assert metrics["bbox_mAP"] > expected["bbox_mAP"] + 0.01
