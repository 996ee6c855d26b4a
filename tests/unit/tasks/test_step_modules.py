from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detector.engine import sample_pictures
from detector.errors import CheckpointError, ConfigError, DatasetError
from detector.evaluation.report import ClassResult, Measured, PrCurve
from detector.structures.samples import Detections
from tasks import __main__ as command
from tasks import convert, evaluate, prepare, report, testing, train
from tasks.registry import PIPELINE, STEPS, request_for
from tasks.request import DataRequest, Request
from tasks.steps import Job

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(PROJECT / "configs")
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    return tmp_path


def job(key: str = "train-1", said: list[str] | None = None) -> Job:
    return Job(key=key, log=(said if said is not None else []).append)


def test_steps_in_order() -> None:
    assert list(STEPS) == [*PIPELINE, "zoo_eval"]
    assert list(PIPELINE) == ["prepare", "convert", "train", "evaluate", "format"]
    assert request_for("convert", Request()) == DataRequest("sample")
    assert request_for("train", Request()) == Request()


def test_work_dir_of_the_same_key_is_kept(tmp_path: Path) -> None:
    first = train.prepare_work_dir(tmp_path / "train", job())
    (first / "epoch_1.pth").write_text("x")
    assert (train.prepare_work_dir(tmp_path / "train", job()) / "epoch_1.pth").exists()


def test_work_dir_of_another_key_is_put_aside(tmp_path: Path) -> None:
    first = train.prepare_work_dir(tmp_path / "train", job())
    (first / "epoch_1.pth").write_text("x")
    said: list[str] = []
    second = train.prepare_work_dir(tmp_path / "train", job("train-2", said))
    assert [path.name for path in second.iterdir()] == ["step_key"]
    assert (tmp_path / "train.previous" / "epoch_1.pth").exists()
    assert "starting afresh" in said[0]


def test_going_back_to_an_earlier_key_takes_its_work_dir_back(tmp_path: Path) -> None:
    first = train.prepare_work_dir(tmp_path / "train", job())
    (first / "epoch_1.pth").write_text("x")
    train.prepare_work_dir(tmp_path / "train", job("train-2"))
    assert (train.prepare_work_dir(tmp_path / "train", job()) / "epoch_1.pth").exists()
    assert train.key_of(tmp_path / "train.previous") == "train-2"


@pytest.mark.parametrize(
    ("there", "kept", "previous"),
    [(("aside", "previous"), "aside", "previous"), (("train", "aside"), "train", "aside")],
    ids=["moved away", "earlier one moved in"],
)
def test_exchange_that_was_killed_halfway_is_finished(
    tmp_path: Path, there: tuple[str, ...], kept: str, previous: str
) -> None:
    names = {"train": "train", "aside": ".train.aside", "previous": "train.previous"}
    for name in there:
        (tmp_path / names[name]).mkdir()
        (tmp_path / names[name] / "from").write_text(name)
        (tmp_path / names[name] / "step_key").write_text("train-1" if name == kept else "train-2")
    work_dir = train.prepare_work_dir(tmp_path / "train", job())
    assert (work_dir / "from").read_text() == kept
    assert (tmp_path / "train.previous" / "from").read_text() == previous
    assert not (tmp_path / ".train.aside").exists()


def test_local_weights_are_told_by_content(folder: Path) -> None:
    (folder / "a.pth").write_text("1")
    inits = [{"type": "Pretrained", "checkpoint": "a.pth"}, {"type": "Normal"}]
    config = {"load_from": "torchvision://resnet50", "model": {"neck": {"init_cfg": inits}, "x": "a.pth"}}
    found = train.first_weights(config)
    assert list(found) == ["a.pth"]
    (folder / "a.pth").write_text("2")
    assert train.first_weights(config) != found
    assert train.first_weights({"model": config["model"]["x"]}) == {}


CONFIG = """
_base_ = ['configs/mask_rcnn/mask_rcnn_r18_fpn_sample.py']
"""


@pytest.mark.parametrize(
    ("extra", "same"),
    [
        ("data = dict(workers_per_gpu=7)", True),
        ("checkpoint_config = dict(interval=2)", True),
        ("model = dict(test_cfg=dict(rcnn=dict(score_thr=0.3)))", True),
        ("data = dict(samples_per_gpu=3)", False),
        ("model = dict(train_cfg=dict(rcnn=dict(pos_weight=2)))", False),
    ],
)
def test_what_cannot_change_weights_is_not_in_the_key_of_train(folder: Path, extra: str, same: bool) -> None:
    (folder / "own.py").write_text(CONFIG)
    before = Request("own.py").settings(without=train.NOT_TRAINING)
    (folder / "own.py").write_text(CONFIG + extra)
    assert (Request("own.py").settings(without=train.NOT_TRAINING) == before) is same


def test_emptied_store_is_noticed(folder: Path) -> None:
    for name in ("source.json", "gtFine/a.png"):
        (folder / "store" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "store" / name).write_text("{}")
    (folder / "link").symlink_to(folder / "store" / "gtFine")
    value = {"store": str(folder / "store"), "files": 1, "links": ["link"]}
    assert prepare.STEP.extra(value) == [Path("link"), folder / "store" / "source.json"]
    assert prepare.STEP.recheck(value) == ""
    (folder / "store" / "gtFine" / "a.png").unlink()
    assert "holds 0 files instead of 1" in prepare.STEP.recheck(value)


def test_cityscapes_ground_truth_is_in_the_key_of_evaluate(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Request, "digests", lambda self, paths: {str(path): "x" for path in paths})
    monkeypatch.setattr(evaluate, "trained", lambda request: "sha")
    assert STEPS["evaluate"].inputs(Request())["truth"] == {}
    (folder / "data/sample/gtFine/val").mkdir(parents=True)
    assert list(STEPS["evaluate"].inputs(Request())["truth"]) == ["data/sample/gtFine/val"]


def test_training_arguments() -> None:
    request = Request(seed=3, epochs=2, device="cuda:1", processes=1)
    assert train.arguments_for(request, Path("w"))[2:] == [
        "--work-dir", "w", "--seed", "3", "--auto-resume", "--cfg-options", "runner.max_epochs=2",
        f"evaluation.samples={train.SAMPLES}",
        "--device", "cuda:1",
    ]  # fmt: skip


def test_training_without_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"checkpoint_config\.interval"):
        train.promote(tmp_path, tmp_path / "model.pth")


def test_evaluating_before_training_says_what_to_type(folder: Path) -> None:
    with pytest.raises(
        DatasetError, match="python -m tasks train --config mask_rcnn_r18_fpn_sample --seed 4"
    ):
        STEPS["evaluate"].key(Request(seed=4))


@pytest.mark.parametrize("name", ["train", "evaluate", "format"])
def test_score_threshold_is_in_the_keys_of_evaluation_only(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Request, "digests", lambda self, paths: {str(path): "x" for path in paths})
    monkeypatch.setattr(evaluate, "trained", lambda request: "sha")
    monkeypatch.setattr("tasks.submit.trained", lambda request: "sha")
    one, other = (STEPS[name].inputs(Request(score_threshold=value)) for value in (0.05, 0.3))
    assert (one == other) is (name == "train")


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["leftImg8bit", "gtFine"], "cityscapes"),
        (["JPEGImages", "Annotations", "ImageSets"], "voc"),
        (["VOCdevkit"], "devkit"),
        (["source_annotations", "val2017"], "coco"),
    ],
)
def test_layout_is_told_by_the_parts(folder: Path, parts: list[str], expected: str) -> None:
    for part in parts:
        (folder / "data" / "x" / part).mkdir(parents=True)
    assert convert.layout(DataRequest("x")) == expected


def test_broken_link_is_named(folder: Path) -> None:
    (folder / "data" / "x").mkdir(parents=True)
    (folder / "data" / "x" / "gtFine").symlink_to(folder / "gone")
    with pytest.raises(DatasetError, match=r"\['gtFine'\] are broken links.*tasks prepare --dataset x"):
        convert.layout(DataRequest("x"))


def test_coco_annotations_are_copied(folder: Path) -> None:
    source = folder / "data" / "x" / "source_annotations"
    source.mkdir(parents=True)
    (source / "instances_val2017.json").write_text("{}")
    (folder / "data" / "x" / "annotations").mkdir()
    (folder / "data" / "x" / "annotations" / "stale.json").write_text("{}")
    convert.run(job(), DataRequest("x"))
    assert [path.name for path in (folder / "data" / "x" / "annotations").iterdir()] == [
        "instances_val2017.json"
    ]


def test_nothing_is_deleted_through_a_link(folder: Path) -> None:
    for name in ("source_annotations", "mine"):
        (folder / "data/x" / name).mkdir(parents=True)
        (folder / "data/x" / name / "a.json").write_text("{}")
    (folder / "data/x/annotations").symlink_to(folder / "data/x/mine")
    with pytest.raises(DatasetError, match=r"data/x/annotations: found a link to .*mine, expected a folder"):
        convert.run(job(), DataRequest("x"))
    assert (folder / "data/x/mine/a.json").is_file()


def detections(scores: list[float]) -> Detections:
    count = len(scores)
    masks: Any = [{"size": [2, 2], "counts": str(score).encode()} for score in scores]
    boxes, labels = torch.arange(4.0 * count).reshape(count, 4), torch.arange(count)
    return Detections(boxes=boxes, scores=torch.tensor(scores), labels=labels, masks=masks)


def test_detections_below_the_threshold_are_dropped_with_their_masks() -> None:
    found = testing.kept({1: detections([0.9, 0.2, 0.4]), 2: detections([])}, 0.3)
    assert found[1].labels.tolist() == [0, 2]
    assert [mask["counts"] for mask in found[1].masks or []] == [b"0.9", b"0.4"]
    assert len(found[2]) == 0
    assert len(testing.kept({1: detections([0.9, 0.2])}, None)[1]) == 2


def test_numbers_are_flat_and_finite() -> None:
    values = {"bbox_mAP": 0.5, "bbox_mAP_copypaste": "0.5 0.7", "cityscapes_AP/train": 0.1, "x": float("nan")}
    assert evaluate.numbers(values) == {"bbox_mAP": 0.5, "cityscapes_AP_train": 0.1}


@pytest.mark.parametrize(("length", "expected"), [(0, []), (2, [0, 1]), (9, [0, 4, 8]), (100, [0, 50, 99])])
def test_pictures_are_spread_over_the_split(length: int, expected: list[int]) -> None:
    assert sample_pictures.spread(length, 3) == pytest.approx(expected, abs=1)


def test_pr_table() -> None:
    curve = PrCurve(recall=np.array([0.0, 1.0]), precision=np.array([1.0, 0.25]))
    assert evaluate.pr_table({"bbox": curve}) == "recall,bbox,segm\n0.00,1.00000,\n1.00,0.25000,\n"
    assert evaluate.pr_table({"0_bbox": curve}) == "recall,bbox,segm,0_bbox\n0.00,,,1.00000\n1.00,,,0.25000\n"
    assert evaluate.pr_table({}) == "recall,bbox,segm\n0.00,,\n1.00,,\n"


def test_cityscapes_ground_truth_is_found_by_layout(folder: Path) -> None:
    (folder / "gtFine" / "val").mkdir(parents=True)
    assert evaluate.truth_of(Path("leftImg8bit/val")) == Path("gtFine/val")
    assert evaluate.truth_of(Path("leftImg8bit/test")) is None
    assert evaluate.truth_of(Path("JPEGImages/val")) is None


def test_command_takes_defaults_from_params(folder: Path) -> None:
    asked = command.request_from(command.parser().parse_args(["train", "--seed", "5"]))
    assert asked == Request("mask_rcnn_r18_fpn_sample", "sample", 5, None, None)


def test_command_refuses_a_family_name_under_dvc(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "train")
    with pytest.raises(ConfigError, match="Write config: mask_rcnn_r18_fpn_sample"):
        command.request_from(command.parser().parse_args(["train", "--config", "mask_rcnn"]))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("device: cpu", "found device.*would not notice"),
        ("dataset: coco", "found dataset: coco.*Write dataset: sample"),
    ],
)
def test_command_refuses_what_dvc_would_not_follow(
    folder: Path, monkeypatch: pytest.MonkeyPatch, line: str, expected: str
) -> None:
    monkeypatch.setenv("DVC_STAGE", "train")
    (folder / "params.yaml").write_text(f"config: mask_rcnn_r18_fpn_sample\n{line}\n")
    with pytest.raises(ConfigError, match=expected):
        command.request_from(command.parser().parse_args(["train"]))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], 0.05),
        (["--score-threshold", "0.3"], 0.3),
        (["--score-threshold", "none"], None),
    ],
)
def test_score_threshold_can_be_left_to_the_config(
    folder: Path, arguments: list[str], expected: float | None
) -> None:
    (folder / "params.yaml").write_text("config: mask_rcnn_r18_fpn_sample\nscore_threshold: 0.05\n")
    asked = command.request_from(command.parser().parse_args(["evaluate", *arguments]))
    assert asked.score_threshold == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "Change to it first"),
        ("epoch: 3", "found \\['epoch'\\]"),
        ("a: [", "no valid YAML"),
        ("x", "found"),
    ],
)
def test_wrong_params_file(folder: Path, text: str | None, expected: str) -> None:
    (folder / "params.yaml").unlink()
    if text is not None:
        (folder / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match=expected):
        command.params()


def test_command_prints_one_paragraph_and_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["evaluate", "--seed", "9"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("evaluate: runs/mask_rcnn_r18_fpn_sample/seed9/model.pth")
    assert "Traceback" not in printed


def test_looking_up_a_step_imports_nothing_heavy() -> None:
    heavy = ("torch", "mlflow", "prefect", "dvc", "cv2")
    code = f"import sys, tasks.__main__; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT
    )
    assert done.stdout.strip() == "[]"


def test_report_names_metrics_steps_and_files() -> None:
    done = [{"step": "train", "seconds": 61.5, "outputs": [f"runs/{name}" for name in "abcdef"]}]
    text = report.markdown(Request(), done, {"bbox_mAP": 0.51234, "other": 1.0})
    assert "| bbox_mAP | 0.5123 |" in text
    assert "| train | 61.5 s | `runs/a`, `runs/b`, `runs/c`, `runs/d` and 2 more |" in text
    assert report.rows({"b": 1.0, "a": 0.123456})[0] == {"metric": "a", "value": 0.1235}


@pytest.mark.parametrize(
    ("config", "family"),
    [
        (PROJECT / "configs/mask_rcnn/mask_rcnn_r18_fpn_sample.py", "mask_rcnn"),
        (Path("configs/faster_rcnn/x.py"), "faster_rcnn"),
        (Path("own.py"), "own"),
    ],
)
def test_the_family_of_a_config_is_its_folder(folder: Path, config: Path, family: str) -> None:
    assert evaluate.family_of(config, config.stem) == family


def test_classes_are_the_rows_of_a_table() -> None:
    curve = PrCurve(recall=np.array([0.0, 1.0]), precision=np.array([1.0, 0.5]))
    classes = {
        "bbox": {"car": ClassResult(0.5, curve), "bus": ClassResult(0.25)},
        "segm": {"car": ClassResult(0.4)},
    }
    assert evaluate.class_table(Measured({}, classes=classes)) == {
        "class": ["car", "bus"], "bbox AP": [0.5, 0.25], "bbox AP50": [0.75, None],
        "segm AP": [0.4, None], "segm AP50": [None, None],
    }  # fmt: skip
    assert evaluate.class_table(Measured({"AR@100": 0.5})) == {}


@pytest.mark.parametrize("place", ["train", "train.previous"])
def test_a_training_that_begins_afresh_leaves_other_ones_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(type(train.STEP), "key", lambda self, request: "train-1")
    request = Request()
    for name in ("train", "train.previous"):
        (request.run_dir / name).mkdir(parents=True)
        (request.run_dir / name / train.KEY_FILE).write_text("train-1" if name == place else "train-2")
    train.begin_afresh(request)
    left = {name: train.key_of(request.run_dir / name) for name in ("train", "train.previous")}
    assert left == {place: "", ({"train", "train.previous"} - {place}).pop(): "train-2"}
