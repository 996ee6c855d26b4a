"""From a checkpoint to all that is made with it and back: each file names its origin, and is made again."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import pytest

from detector.checkpoint.digest import weights_sha256
from detector.checkpoint.files import load_checkpoint
from detector.cli import main
from detector.data.synthetic import Recipe, write_coco

BASE = Path(__file__).parents[2] / "configs" / "mask_rcnn" / "mask_rcnn_r18_fpn_sample.py"
CLASSES = ("person", "bicycle", "car", "motorcycle", "bus", "train", "truck")
CONFIG = """
_base_ = {base!r}
model = dict(roi_head=dict(bbox_head=dict(num_classes=7), mask_head=dict(num_classes=7)))
notes = 'coco/annotations'
data = dict(
    samples_per_gpu=2,
    workers_per_gpu=0,
    train=dict(type='CocoDataset', classes={classes!r}, ann_file=notes + '/instances_train2017.json',
               img_prefix='coco/train2017'),
    val=dict(type='CocoDataset', classes={classes!r}, ann_file=notes + '/instances_val2017.json',
             img_prefix='coco/val2017'),
    test=dict(type='CocoDataset', classes={classes!r}, ann_file=notes + '/image_info_test2017.json',
              img_prefix='coco/test2017'))
runner = dict(max_epochs=1)
lr_config = dict(_delete_=True, policy='step', step=[1])
"""
TRAIN = ["train", "tiny.py", "--work-dir", "w", "--seed", "3", "--device", "cpu", "--no-validate"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, its config, and a training of one iteration in ``w``."""
    folder = tmp_path_factory.mktemp("lineage")
    write_coco(folder / "coco", recipe=Recipe(seed=1, train=2, val=2, test=2, height=64, width=96))
    (folder / "tiny.py").write_text(CONFIG.format(base=str(BASE), classes=CLASSES))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DETECTOR_PREFECT_RUN", "flow-run-1")
        assert main(TRAIN) == 0
    return folder


def stamp(path: str, capsys: pytest.CaptureFixture[str]) -> dict:
    capsys.readouterr()
    assert main(["lineage", path, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


@pytest.mark.slow
def test_a_checkpoint_is_made_again_from_its_stamp(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert main(["reproduce", "w/epoch_1.pth", "--here", "--run", "--folder", "again"]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "equal"
    first, second = load_checkpoint("w/epoch_1.pth"), load_checkpoint("again/work/epoch_1.pth")
    assert weights_sha256(first.state_dict) == weights_sha256(second.state_dict)
    was, now = first.meta["lineage"], second.meta["lineage"]
    assert was["weights_sha256"] == now["weights_sha256"] == weights_sha256(first.state_dict)
    assert was["config"]["sha256"] == now["config"]["sha256"]
    assert (was["runs"], now.get("runs")) == ({"prefect": "flow-run-1"}, None)
    assert main(["reproduce", "w/epoch_1.pth", "--here", "--run", "--folder", "again"]) == 1
    assert "expected an empty folder" in capfd.readouterr().err


@pytest.mark.slow
def test_results_metrics_and_pictures_name_the_checkpoint_and_are_made_again(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    asked = ["--split", "val", "--out", "r.pkl", "--eval", "bbox", "--work-dir", "e", "--show-dir", "drawn"]
    assert main(["test", "tiny.py", "w/epoch_1.pth", "--device", "cpu", *asked]) == 0
    weights = stamp("w/epoch_1.pth", capsys)["weights_sha256"]
    picture, metrics = next(Path("drawn").glob("*.jpg")), next(Path("e").glob("*.json"))
    for path in ("r.pkl", str(picture), str(metrics)):
        found = stamp(path, capsys)
        assert found["checkpoint"]["weights_sha256"] == weights
        assert found["checkpoint"]["trained"]["runs"] == {"prefect": "flow-run-1"}
        assert found["command"][:3] == ["detector", "test", "tiny.py"]
        assert list(found["data"]["annotations"]) == ["coco/annotations/instances_val2017.json"]
    with Path("r.pkl").open("rb") as stream:
        assert len(pickle.load(stream)) == 2
    assert main(["eval", "tiny.py", "r.pkl", "--split", "val", "--eval", "bbox"]) == 0
    assert main(["reproduce", "r.pkl", "--here", "--run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("equal")


@pytest.mark.slow
def test_a_submission_carries_it_and_passes_the_check(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    options = ["--format-only", "--eval-options", "jsonfile_prefix=sub/mine"]
    lower = ["--cfg-options", "model.test_cfg.rcnn.score_thr=0.0"]
    assert main(["test", "tiny.py", "w/epoch_1.pth", "--device", "cpu", *options, *lower]) == 0
    truth = ["--annotations", "coco/annotations/image_info_test2017.json"]
    assert main(["check-submission", "sub/mine.bbox.json", *truth, "--zip", "mine.zip"]) == 0
    assert zipfile.ZipFile("mine.zip").comment
    assert main(["check-submission", "mine.zip", *truth]) == 0
    assert stamp("mine.zip", capsys)["command"][:2] == ["detector", "check-submission"]
    assert main(["lineage", "sub/mine.bbox.json"]) == 1
    assert "ask its zip" in capsys.readouterr().err
