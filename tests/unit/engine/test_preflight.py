"""Pre-flight: every problem in its own words, on a small data set and a small model that is never run."""

from __future__ import annotations

import json
import shutil
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from detector.cli import main
from detector.config import Config, load_config
from detector.data.datasets import build_dataset
from detector.engine import preflight, preflight_machine, preflight_memory
from detector.engine.preflight_data import FEW_OBJECTS, check_dataset
from detector.engine.preflight_doctor import examine
from detector.engine.preflight_model import build_outline, check_wiring
from detector.engine.preflight_pipeline import check_pipelines, colour_hint
from detector.engine.preflight_result import OK, PROBLEM, WARNING, Check, as_table, of_error, settle
from detector.errors import ConfigError, DatasetError, DetectorError, MachineError

SAMPLE = Path(__file__).parents[3] / "configs" / "mask_rcnn" / "mask_rcnn_r18_fpn_sample.py"
NAMES = ("cat", "dog")
CPU = torch.device("cpu")
RESNET18 = {"type": "Pretrained", "checkpoint": "torchvision://resnet18"}


def annotations(images: int = 12, *, objects: int = 2, masks: bool = True) -> dict[str, Any]:
    """A COCO document of 64 x 48 images, each with cats and dogs in turn."""
    rows = [(i, k) for i in range(images) for k in range(objects)]
    outline = {"segmentation": [[4, 4, 24, 4, 24, 24, 4, 24]]} if masks else {}
    common = {"bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0, **outline}
    return {
        "images": [{"id": i + 1, "file_name": f"{i}.png", "height": 48, "width": 64} for i in range(images)],
        "annotations": [
            {"id": n + 1, "image_id": i + 1, "category_id": 1 + k % 2, **common}
            for n, (i, k) in enumerate(rows)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images and annotation files of both splits."""
    (tmp_path / "images").mkdir()
    for i in range(12):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), np.full((48, 64, 3), 9 * i, np.uint8))
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").write_text(json.dumps(annotations()))
    return tmp_path


def config(folder: Path, **options: Any) -> Config:
    """The sample's config on the folder, with options such as ``data.train.ann_file``."""
    sections: dict[str, Any] = {}
    for split, file in (("train", "train"), ("val", "val"), ("test", "val")):
        place = {"ann_file": str(folder / f"{file}.json"), "img_prefix": str(folder / "images")}
        named = {"type": "CocoDataset", "classes": NAMES, **place}
        sections |= {f"data.{split}.{key}": value for key, value in named.items()}
    heads = {f"model.roi_head.{head}.num_classes": 2 for head in ("bbox_head", "mask_head")}
    given = {**sections, **heads, "work_dir": str(folder / "run"), **options}
    whole = [
        key for key, value in options.items() if value is None
    ]  # a part set to None has no inner options
    return load_config(
        SAMPLE, {k: v for k, v in given.items() if not any(k.startswith(f"{w}.") for w in whole)}
    )


def examined(folder: Path, checkpoint: Path | None = None, **options: Any) -> list[Check]:
    return list(examine(config(folder, **options), checkpoint, device=CPU))


def bad(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks if check.status != OK}


def test_a_sound_config_has_no_finding(folder: Path) -> None:
    checks = examined(folder)
    assert bad(checks) == {}
    assert {
        "train data",
        "train masks",
        "heads",
        "head and pipeline",
        "evaluation",
        "memory of training",
    } <= {check.name for check in checks}


def test_the_doctor_reads_each_file_once_and_no_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from detector.data.datasets import coco

    read: list[Path] = []
    original = coco.read_coco
    monkeypatch.setattr(coco, "read_coco", lambda path, **more: read.append(path) or original(path, **more))
    monkeypatch.setattr(cv2, "imdecode", None)
    examined(folder)
    assert [path.name for path in read] == ["train.json", "val.json"]


@pytest.mark.parametrize(
    ("options", "name", "status", "words"),
    [
        ({"data.train.ann_file": "no.json"}, "train data", PROBLEM, ["no.json", "does not exist"]),
        ({"data.train.classes": ("cat", "dgo")}, "train data", PROBLEM, ["'dgo' (nearest: 'dog')"]),
        ({"data.val.classes": ("dog", "cat")}, "val classes", PROBLEM, ["(dog, cat), data.train 2 classes"]),
        ({"model.roi_head.bbox_head.num_classes": 80}, "heads", PROBLEM, ["bbox_head has num_classes=80"]),
        ({"model.neck.out_chanels": 3}, "model", PROBLEM, ["out_chanels", "out_channels"]),
        ({"data.train.img_prefix": "nowhere"}, "train images", PROBLEM, ["nowhere: this image folder does"]),
        ({"evaluation.metric": ["bbx"]}, "evaluation", PROBLEM, ["bbx", "Did you mean 'bbox'"]),
        ({"runner.max_epochs": 0}, "schedule", PROBLEM, ["runner.max_epochs: found 0"]),
        ({"load_from": "gone.pth"}, "load_from", PROBLEM, ["found no file 'gone.pth'"]),
        ({"resume_from": "gone.pth"}, "resume_from", PROBLEM, ["found no file 'gone.pth'"]),
        (
            {"model.backbone.init_cfg": {"_delete_": True, **RESNET18}},
            "weights of backbone", WARNING, ["will be downloaded", "place it at"],
        ),
        ({"model.backbone.style": "caffe"}, "colours", WARNING, ["style='caffe'", "to_rgb=False"]),
        ({"data.train.pipeline.5.size_divisor": 20}, "padding", WARNING, ["size_divisor=20"]),
        ({"data.val.pipeline.1.transforms.2.std": [1.0, 1, 1]}, "colours", WARNING, ["val normalises by"]),
        ({"data.train.pipeline.1.with_seg": True}, "train class maps", PROBLEM, ["gives no seg_prefix"]),
        (
            {"data.train.seg_prefix": "maps", "data.train.pipeline.1.with_seg": True},
            "train class maps", PROBLEM, ["maps lacks 12 of 12 class maps: 0.png"],
        ),
        ({"data.train.pipeline.1.with_mask": False}, "head and pipeline", PROBLEM, ["needs masks"]),
        ({"model.roi_head.mask_head": None, "evaluation.metric": "bbox"}, "head and pipeline", WARNING,
         ["draws masks, but the model has no mask head"]),
        ({"model.roi_head.mask_head": None}, "evaluation", PROBLEM, ["the model has no mask head"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)  # fmt: skip
def test_a_mistake_is_named_with_its_remedy(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    name: str,
    status: str,
    words: list[str],
) -> None:
    monkeypatch.setenv("DETECTOR_CACHE", str(folder / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    monkeypatch.chdir(folder)
    found = bad(examined(folder, **options))
    assert name in found, found
    assert found[name].status == status
    assert all(word in f"{found[name].found} {found[name].remedy}" for word in words), found[name]
    assert found[name].remedy or "; expected" in found[name].found


def rewrite(folder: Path, split: str, content: dict[str, Any]) -> None:
    (folder / f"{split}.json").write_text(json.dumps(content))


def test_annotations_without_masks_are_told_in_training_and_evaluation(folder: Path) -> None:
    for split in ("train", "val"):
        rewrite(folder, split, annotations(masks=False))
    found = bad(examined(folder))
    assert "24 of 24 objects of" in found["train masks"].found
    assert found["train masks"].status == found["evaluation masks"].status == PROBLEM
    assert "evaluation.metric='bbox'" in found["evaluation masks"].remedy


def test_classes_without_and_with_few_objects_are_told(folder: Path) -> None:
    content = annotations(objects=1)
    rewrite(folder, "train", content)
    found = bad(examined(folder))["train objects"]
    assert "1 classes have none and cannot be learnt: dog" in found.found
    for entry in content["annotations"][: FEW_OBJECTS - 1]:
        entry["category_id"] = 2
    rewrite(folder, "train", content)
    assert "fewer than 10 objects: cat 3, dog 9" in bad(examined(folder))["train objects"].found


def test_a_small_share_of_images_is_told(folder: Path) -> None:
    content = annotations()
    content["annotations"] = content["annotations"][:8]
    rewrite(folder, "train", content)
    assert "4 of 12 images are used (33 %)" in bad(examined(folder))["train filtering"].found


def test_sizes_of_a_sample_are_compared_by_header(folder: Path) -> None:
    cv2.imwrite(str(folder / "images" / "3.png"), np.zeros((20, 30, 3), np.uint8))
    (folder / "images" / "4.png").write_bytes(b"no image")
    found = bad(examined(folder))["train image headers"]
    assert found.status == WARNING
    assert "3.png is stated 64 x 48 and has 30 x 20; 4.png is no image" in found.found
    assert "detector scan" in found.remedy


def test_missing_images_are_a_warning_where_they_are_skipped(folder: Path) -> None:
    (folder / "images" / "5.png").unlink()
    assert "lacks 1 of 12 images" in bad(examined(folder))["train images"].found
    found = bad(examined(folder, **{"data.train.corrupt": "skip"}))["train images"]
    assert (found.status, "5.png" in found.found) == (WARNING, True)


def test_training_on_the_validation_file_is_told(folder: Path) -> None:
    found = bad(examined(folder, **{"data.val.ann_file": str(folder / "train.json")}))
    assert "trained on and evaluated on" in found["val split"].found


def saved(folder: Path, classes: Any, **changes: Any) -> Path:
    """A checkpoint of the folder's model, or of one with other settings."""
    model = build_outline(config(folder, **changes).data, training=False)
    state = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in model.state_dict().items()}
    path = folder / "model.pth"
    torch.save({"meta": {} if classes is None else {"CLASSES": classes}, "state_dict": state}, path)
    return path


def test_a_checkpoint_that_fits_is_fine(folder: Path) -> None:
    assert bad(examined(folder, saved(folder, NAMES))) == {}


@pytest.mark.parametrize(
    ("classes", "changes", "name", "status", "words"),
    [
        (("dog", "cat"), {}, "checkpoint classes", PROBLEM, "expected the same ones in the same order"),
        (("cat",), {}, "checkpoint classes", PROBLEM, "trained for 1 classes"),
        (("cat", "hound"), {}, "checkpoint classes", WARNING, "'hound' for 'dog'"),
        (None, {}, "checkpoint classes", WARNING, "names none"),
        (
            NAMES,
            {"model.roi_head.bbox_head.num_classes": 5},
            "checkpoint tensors",
            PROBLEM,
            "another number of classes",
        ),
        (
            NAMES,
            {"model.roi_head.mask_head": None},
            "checkpoint tensors",
            PROBLEM,
            "Mask R-CNN against Faster R-CNN",
        ),
    ],
    ids=["moved", "fewer", "renamed", "nameless", "heads", "masks"],
)
def test_a_checkpoint_that_does_not_fit_is_told(
    folder: Path, classes: Any, changes: dict[str, Any], name: str, status: str, words: str
) -> None:
    found = bad(examined(folder, saved(folder, classes, **changes)))
    assert found[name].status == status
    assert words in f"{found[name].found} {found[name].remedy}"


@pytest.mark.parametrize(
    ("content", "words"), [(None, "no such checkpoint file"), (b"junk", "cannot be read as a checkpoint")]
)
def test_an_unreadable_checkpoint_is_told(folder: Path, content: bytes | None, words: str) -> None:
    path = folder / "x.pth"
    if content is not None:
        path.write_bytes(content)
    found = bad(examined(folder, path))["checkpoint"]
    assert found.status == PROBLEM
    assert words in f"{found.found} {found.remedy}"


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("free_mb", "status"), [(10, PROBLEM), (145, WARNING), (10_000, OK)])
def test_disk_must_hold_the_kept_checkpoints(
    folder: Path, monkeypatch: pytest.MonkeyPatch, free_mb: int, status: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, free_mb * 2**20))
    settings = config(folder).data
    (check,) = preflight_machine.check_disk(settings, build_outline(settings), folder / "new" / "run")
    assert check.status == status
    assert "2 of about 46 MiB each need 137 MiB" in check.found
    assert check.kind is (ConfigError if status == OK else MachineError)


def test_the_estimated_checkpoint_is_as_large_as_a_real_one(folder: Path) -> None:
    settings = config(folder).data
    model = build_outline(settings)
    estimate = preflight_machine.checkpoint_bytes(settings, model)
    state = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in model.state_dict().items()}
    moments = [torch.zeros(p.shape) for p in model.parameters() for _ in range(2)]  # AdamW's
    torch.save({"state_dict": state, "optimizer": moments}, folder / "real.pth")
    assert estimate == pytest.approx((folder / "real.pth").stat().st_size, rel=0.02)


def test_checkpoints_that_are_there_count_no_second_time(folder: Path) -> None:
    settings = config(folder).data
    (folder / "run").mkdir()
    for name in ("epoch_1.pth", "epoch_2.pth"):
        (folder / "run" / name).touch()
    (check,) = preflight_machine.check_disk(settings, build_outline(settings), folder / "run")
    assert "need 46 MiB" in check.found


@pytest.mark.parametrize(("free_mb", "status"), [(0.1, WARNING), (1000, OK)])
def test_disk_must_hold_the_results(
    folder: Path, monkeypatch: pytest.MonkeyPatch, free_mb: float, status: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, int(free_mb * 2**20)))
    settings = config(folder).data
    dataset = build_dataset(settings["data"]["test"], test_mode=True)
    (check,) = preflight_machine.check_results(settings, dataset, folder / "out.pkl")
    assert check.status == status
    assert list(preflight_machine.check_results(settings, dataset, None)) == []


@pytest.mark.parametrize(
    ("free", "total", "status"), [(2**20, 2**20, PROBLEM), (2**20, 2**40, WARNING), (2**40, 2**40, OK)]
)
def test_training_must_fit_into_the_devices_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, free: int, total: int, status: str
) -> None:
    monkeypatch.setattr(preflight_memory, "device_memory", lambda device: (free, total, "cuda:0"))
    settings = config(folder).data
    dataset = build_dataset(settings["data"]["train"])
    checks = list(preflight_memory.check_memory(settings, dataset, build_outline(settings), CPU))
    found = {check.name: check for check in checks}["memory of training"]
    assert found.status == status
    assert "are free on cuda:0" in found.found


@pytest.mark.parametrize(("free", "status"), [(2**20, PROBLEM), (6 * 2**20, WARNING), (2**40, None)])
def test_shared_memory_must_hold_the_workers_batches(
    monkeypatch: pytest.MonkeyPatch, free: int, status: str | None
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 0, free))
    check = preflight_memory._shared_memory(5 * 2**20, 2)
    assert (check.status if check else None) == status
    if check:
        assert "--shm-size" in check.remedy


def test_what_the_backward_pass_keeps_is_what_a_real_pass_keeps(folder: Path) -> None:
    from detector.build import build_model

    settings = config(folder).data
    estimate = preflight_memory.saved_bytes(build_outline(settings), (1, 3, 64, 96))
    model: Any = build_model(settings["model"], training=True).train()
    kept: dict[int, int] = {}
    own = {p.untyped_storage()._cdata for p in [*model.parameters(), *model.buffers()]}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model.rpn_head(model.neck(model.backbone(torch.zeros(1, 3, 64, 96))))
    assert outputs
    assert estimate == pytest.approx(sum(kept.values()), rel=0.02)


@pytest.mark.parametrize(
    ("steps", "hw"),
    [
        ([{"type": "Resize", "img_scale": (1333, 800)}, {"type": "Pad", "size_divisor": 32}], (800, 1344)),
        ([{"type": "Resize", "img_scale": [(640, 480), (800, 600)]}], (600, 800)),
        (
            [{"type": "Resize", "img_scale": (2048, 1024)}, {"type": "RandomCrop", "crop_size": (512, 768)}],
            (512, 768),
        ),
        ([{"type": "Normalize"}], None),
    ],
    ids=["pad", "scales", "crop", "unknown"],
)
def test_the_size_of_the_input_follows_from_the_pipeline(steps: list[dict[str, Any]], hw: Any) -> None:
    assert preflight_memory.input_hw({"type": "CocoDataset", "ann_file": "a", "pipeline": steps}) == hw


RGB, BGR = [123.675, 116.28, 103.53], [103.53, 116.28, 123.675]
STD, ONE = [58.395, 57.12, 57.375], [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("mean", "std", "rgb", "style", "words"),
    [
        (RGB, STD, True, "pytorch", ""),
        (BGR, ONE, False, "caffe", ""),
        (BGR, [57.375, 57.12, 58.395], False, "pytorch", ""),  # X-101 32x8d
        ([0, 0, 0], [255.0, 255.0, 255.0], True, None, ""),  # YOLOv3
        (RGB, ONE, True, None, ""),  # SSD
        (RGB, STD, True, "caffe", "style='caffe'"),
        ([127.0, 127.0, 127.0], ONE, False, "pytorch", "style='pytorch'"),
        (RGB, STD, False, "pytorch", "order red, green, blue"),
        (BGR, ONE, True, "caffe", "order blue, green, red"),
        ([1, 2], [1], True, None, "found 2 means and 1 deviations"),
    ],
)
def test_colours_are_compared_with_the_backbones(
    mean: Any, std: Any, rgb: bool, style: Any, words: str
) -> None:
    hint = colour_hint({"mean": mean, "std": std, "to_rgb": rgb}, style)
    assert (words in hint) if words else hint == ""


@pytest.mark.parametrize(
    "family", ["mask_rcnn", "retinanet", "fcos", "ssd", "yolo", "yolox", "cityscapes", "htc"]
)
def test_the_shipped_configs_get_no_hint(family: str) -> None:
    paths = sorted((SAMPLE.parents[1] / family).glob("*.py"))
    assert paths
    odd = [
        (path.name, check)
        for path in paths
        for check in check_pipelines(load_config(path).data)
        if check.status != OK
    ]
    assert odd == []


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"type": "FastRCNN"}, "needs proposals"),
        ({"roi_head": {"semantic_head": {"type": "FusedSemanticHead"}}}, "needs class maps"),
        ({"mask_head": {"type": "SOLOHead"}}, "boxes, masks"),
    ],
    ids=["proposals", "maps", "masks"],
)
def test_heads_are_compared_with_what_the_pipeline_loads(
    folder: Path, cfg: dict[str, Any], words: str
) -> None:
    dataset = build_dataset(config(folder).data["data"]["train"])
    assert any(words in check.found for check in check_wiring({"model": cfg}, dataset))


def test_an_old_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert preflight_machine.check_versions().status == OK
    monkeypatch.setattr(torch, "__version__", "2.5.1+cu121")
    found = preflight_machine.check_versions()
    assert (found.status, "torch 2.10 or newer" in found.found) == (PROBLEM, True)


def test_a_run_stops_at_problems_and_notes_each_warning_once() -> None:
    notes: list[str] = []
    warning = Check("a", WARNING, "found this", "Do that.")
    settle([warning, warning, Check("b", OK, "fine")], "c.py", note=notes.append)
    assert notes == ["pre-flight: a: found this. Do that."]
    first = Check("d", PROBLEM, "no masks", "Add some.", DatasetError)
    with pytest.raises(DatasetError, match=r"^d: no masks\. Add some\.$"):
        settle([first], "c.py", note=notes.append)
    with pytest.raises(DatasetError, match=r"c\.py: 2 problems before the first step:\n  d: no masks"):
        settle([first, replace(first, name="e")], "c.py", note=notes.append)


@pytest.mark.parametrize(
    ("text", "found", "remedy"),
    [
        (
            "a.json: is broken. One was expected. Make it again.",
            "a.json: is broken. One was expected",
            "Make it again.",
        ),
        ("x.pth: no such file; give the path of one.", "x.pth: no such file", "give the path of one."),
        ("nothing to split", "nothing to split", ""),
    ],
)
def test_the_last_sentence_of_an_error_is_its_remedy(text: str, found: str, remedy: str) -> None:
    check = of_error("a", ConfigError(text))
    assert (check.found, check.remedy, check.kind) == (found, remedy, ConfigError)


def test_the_table_aligns_and_counts() -> None:
    checks = [
        Check("one", OK, "fine"),
        Check("longer name", PROBLEM, "word " * 40, "Do this."),
        Check("c", WARNING, "w"),
    ]
    lines = list(as_table(checks, width=80))
    assert lines[0] == "ok       one          fine"
    assert all(len(line) <= 80 for line in lines)
    assert any(line.strip() == "-> Do this." for line in lines)
    assert lines[-1] == "1 ok, 1 warning, 1 problem"


def before(folder: Path, notes: list[str], **options: Any) -> None:
    settings = config(folder, **options)
    dataset = build_dataset(settings.data["data"]["train"], where="data.train")
    preflight.before_training(settings, dataset, work_dir=folder / "run", device=CPU, note=notes.append)


def test_training_passes_on_sound_data_and_stops_on_problems(folder: Path) -> None:
    notes: list[str] = []
    before(folder, notes)
    assert notes == []
    with pytest.raises(DetectorError, match="the model needs masks to learn from"):
        before(folder, notes, **{"data.train.pipeline.1.with_mask": False})


def test_testing_and_evaluation_look_at_their_own_data(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cv2.imwrite(str(folder / "images" / "3.png"), np.zeros((20, 30, 3), np.uint8))
    settings, notes = config(folder), []
    dataset = build_dataset(settings.data["data"]["val"], test_mode=True, where="data.val")
    preflight.before_testing(settings, dataset)
    assert "3.png is stated 64 x 48" in caplog.text
    preflight.before_evaluation(settings, dataset, note=notes.append)
    assert len(notes) == 1
    rewrite(folder, "val", annotations(masks=False))
    bare = build_dataset(settings.data["data"]["val"], test_mode=True, where="data.val")
    with pytest.raises(DatasetError, match="evaluation masks: 24 of 24 objects"):
        preflight.before_evaluation(settings, bare, note=notes.append)


def test_the_command_train_stops_before_a_step(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "c.py"
    path.write_text(config(folder, **{"data.train.pipeline.1.with_mask": False}).text())
    assert main(["train", str(path), "--work-dir", str(folder / "run"), "--device", "cpu"]) == 1
    assert "the model needs masks to learn from" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "code"), [(2, 0), (3, 1)], ids=["fits", "problem"])
def test_the_command_doctor_prints_a_table(
    folder: Path, capsys: pytest.CaptureFixture[str], count: int, code: int
) -> None:
    path = folder / "c.py"
    path.write_text(config(folder, **{"model.roi_head.bbox_head.num_classes": count}).text())
    assert main(["doctor", str(path), "--device", "cpu"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert ("0 problems" in lines[-1]) is (code == 0)
    assert any(line.startswith("problem  heads") for line in lines) is (code == 1)


def test_the_checks_of_a_built_data_set_take_moments(tmp_path: Path) -> None:
    """20,000 images; 118,000 take 0.7 s, most of it the listing of the folder."""
    (tmp_path / "images").mkdir()
    for i in range(20):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), np.zeros((48, 64, 3), np.uint8))
    content = annotations(20_000, objects=4)
    for i, image in enumerate(content["images"]):
        image["file_name"] = f"{i % 20}.png"
    for split in ("train", "val"):
        rewrite(tmp_path, split, content)
    settings = config(tmp_path)
    dataset = build_dataset(settings.data["data"]["train"])
    start = time.process_time()
    checks = check_dataset(dataset, "train")
    assert time.process_time() - start < 1.5
    assert all(check.status == OK for check in checks)
