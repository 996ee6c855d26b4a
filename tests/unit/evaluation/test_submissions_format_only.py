"""What `detector test --format-only` writes passes `detector check-submission`, from image to zip."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from detector.build import build_model
from detector.checkpoint.files import save_checkpoint
from detector.cli import main
from detector.config import Config, load_config
from detector.data.converters.cityscapes_to_coco import convert
from detector.data.converters.voc_to_coco import VOC_CLASSES
from detector.data.converters.voc_to_coco import convert as convert_voc
from detector.data.synthetic import Recipe, write_cityscapes, write_coco, write_voc
from detector.engine.evaluate import split_dataset
from detector.engine.scoring import format_results
from detector.structures.samples import Detections

RECIPE = Recipe(seed=5, train=0, val=1, test=2, height=96, width=160)
CITYSCAPES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
COCO = ("person", "bicycle", "car", "motorcycle", "bus", "train", "truck")
CONFIG = """
_base_ = {base!r}
model = dict(roi_head=dict(bbox_head=dict(num_classes={count}), mask_head=dict(num_classes={count})),
             test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=20)))
data = dict(workers_per_gpu=0, test=dict(
    type={kind!r}, classes={classes!r}, ann_file={ann!r}, img_prefix={images!r}))
"""


def config_of(folder: Path, kind: str, classes: tuple[str, ...], ann: Path, images: Path) -> list[str]:
    """A small Mask R-CNN's config and a checkpoint of weights that nobody trained."""
    base = Path(__file__).parents[3] / "configs" / "mask_rcnn" / "mask_rcnn_r18_fpn_sample.py"
    path = folder / "config.py"
    text = CONFIG.format(
        base=str(base), count=len(classes), kind=kind, classes=classes, ann=str(ann), images=str(images)
    )
    path.write_text(text)
    torch.manual_seed(0)
    model = build_model(load_config(path).data["model"], training=False)
    save_checkpoint(folder / "model.pth", {"state_dict": model.state_dict(), "meta": {"CLASSES": classes}})
    return [str(path), str(folder / "model.pth")]


def test_a_cityscapes_test_split_from_images_to_the_zip(tmp_path, capsys):
    write_cityscapes(tmp_path, recipe=RECIPE)
    ann = convert(tmp_path, splits=["test"])[0]
    assert "annotations" not in json.loads(ann.read_text())
    command = config_of(tmp_path, "CityscapesDataset", CITYSCAPES, ann, tmp_path / "leftImg8bit" / "test")
    out = tmp_path / "submission"
    arguments = ["--format-only", "--device", "cpu", "--eval-options", f"txtfile_prefix={out}"]
    assert main(["test", *command, *arguments]) == 0
    assert len(list(out.glob("*.png"))) > 10
    capsys.readouterr()
    for path in (out, out.with_suffix(".zip")):
        assert main(["check-submission", str(path), "--annotations", str(ann)]) == 0
        assert capsys.readouterr().out.endswith(f"{path}: fits the cityscapes server\n")


def test_a_coco_test_split_from_images_to_the_zip(tmp_path, capsys):
    write_coco(tmp_path, recipe=RECIPE)
    ann = tmp_path / "annotations" / "image_info_test2017.json"
    command = config_of(tmp_path, "CocoDataset", COCO, ann, tmp_path / "test2017")
    arguments = ["--format-only", "--device", "cpu", "--eval-options", f"jsonfile_prefix={tmp_path / 'r'}"]
    assert main(["test", *command, *arguments]) == 0
    capsys.readouterr()
    for kind in ("bbox", "segm"):
        path, out = tmp_path / f"r.{kind}.json", tmp_path / f"{kind}.zip"
        assert len(json.loads(path.read_text())) > 10
        assert main(["check-submission", str(path), "--annotations", str(ann), "--zip", str(out)]) == 0
        assert f"{path}: fits the coco server\nwritten: {out}" in capsys.readouterr().out
        assert zipfile.ZipFile(out).namelist() == ["detections_test2017_r_results.json"]
        assert main(["check-submission", str(out), "--annotations", str(ann)]) == 0


def formatted(tmp_path: Path, dataset: dict[str, Any], **options: str) -> list[Path]:
    """Files of one box per image of a test split."""
    data = {"data": {"test": {**dataset, "pipeline": [{"type": "LoadImageFromFile"}]}}}
    config = Config(name="c", path=tmp_path / "c.py", data=data, origins={})
    split = split_dataset(config)
    box = Detections(torch.tensor([[0.5, 1.0, 30.0, 20.0]]), torch.tensor([0.25]), torch.tensor([1]))
    return format_results(config, split, dict.fromkeys(split.image_ids, box), options=options)


@pytest.mark.parametrize("source", ["xml", "json"])
def test_a_voc_test_split_is_written_and_passes(tmp_path, capsys, source):
    write_voc(tmp_path, recipe=RECIPE)
    names = tmp_path / "VOC2007" / "ImageSets" / "Main" / "test.txt"
    if source == "xml":
        dataset = {"type": "VOCDataset", "ann_file": str(names), "img_prefix": f"{tmp_path}/VOC2007/"}
    else:
        convert_voc(tmp_path)
        ann = str(tmp_path / "voc07_test.json")
        dataset = {
            "type": "CocoDataset",
            "classes": VOC_CLASSES,
            "ann_file": ann,
            "img_prefix": str(tmp_path),
        }
    out = tmp_path / "out"
    paths = formatted(tmp_path, dataset, txtfile_prefix=str(out))
    assert [p.name for p in paths] == [f"comp4_det_test_{name}.txt" for name in VOC_CLASSES]
    stems = names.read_text().split()
    assert paths[1].read_text() == "".join(f"{stem} 0.25 1.5 2 31 21\n" for stem in stems)
    assert main(["check-submission", str(out), "--annotations", str(names)]) == 0
    assert capsys.readouterr().out.endswith(f"{out}: fits the voc server\n")


def test_an_lvis_test_split_is_written_and_passes(tmp_path, capsys):
    categories = [{"id": i, "name": f"c{i}", "frequency": "r"} for i in range(1, 1204)]
    url = "http://images.cocodataset.org/test2017/000000000007.jpg"
    images = [{"id": 7, "coco_url": url, "height": 40, "width": 60}]
    ann = tmp_path / "lvis_v1_image_info_test_dev.json"
    ann.write_text(json.dumps({"images": images, "categories": categories}))
    dataset = {"type": "LVISV1Dataset", "ann_file": str(ann), "img_prefix": str(tmp_path)}
    (path,) = formatted(tmp_path, dataset, jsonfile_prefix=str(tmp_path / "r"))
    assert json.loads(path.read_text())[0]["category_id"] == 2
    assert main(["check-submission", str(path), "--annotations", str(ann)]) == 0
    assert capsys.readouterr().out.endswith("fits the lvis server\n")
