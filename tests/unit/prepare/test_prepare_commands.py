"""`detector download | link | convert` as a user types them."""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from detector.commands import convert, download, link
from detector.data.synthetic import Recipe, write_cityscapes, write_voc
from detector.errors import DatasetError

RECIPE = Recipe(train=2, val=1, test=1, height=64, width=128)
COMMANDS = (convert, download, link)


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers(dest="command")
    for command in COMMANDS:
        command.add_parser(subparsers)
    args = parser.parse_args(words)
    return int({"convert": convert, "download": download, "link": link}[words[0]].run(args))


def test_convert_cityscapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cityscapes(tmp_path, recipe=RECIPE)
    assert (
        run("convert", "cityscapes", str(tmp_path), "--nproc", "1", "--out-dir", str(tmp_path / "out")) == 0
    )
    assert len(list((tmp_path / "out").glob("instancesonly_filtered_gtFine_*.json"))) == 3
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["train", "val", "test"]
    assert lines[0].startswith("train: 2 images found, 2 written; ")


@pytest.mark.parametrize(("flags", "ending"), [([], "pkl"), (["--out-format", "coco"], "json")])
def test_convert_pascal_voc(tmp_path: Path, flags: list[str], ending: str) -> None:
    write_voc(tmp_path, recipe=RECIPE)
    assert run("convert", "pascal_voc", str(tmp_path), "-o", str(tmp_path / "out"), *flags) == 0
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == [f"voc07_{split}.{ending}" for split in ("test", "train", "trainval", "val")]
    path = tmp_path / "out" / names[1]
    content = pickle.loads(path.read_bytes()) if ending == "pkl" else json.loads(path.read_text())["images"]
    assert len(content) == 2


def test_convert_own_classes(tmp_path: Path) -> None:
    names = {
        name: name for name in ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    }
    write_voc(tmp_path, recipe=RECIPE, names=names)
    folder = str(tmp_path / "VOC2007")
    run("convert", "pascal_voc", folder, "--out-format", "coco", "--classes", *sorted(names))
    document = json.loads((tmp_path / "VOC2007" / "train.json").read_text())
    assert [c["name"] for c in document["categories"]] == sorted(names)


def test_convert_images(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, recipe=RECIPE)
    (tmp_path / "classes.txt").write_text("car\n")
    images = tmp_path / "leftImg8bit"
    assert (
        run("convert", "images2coco", str(images), str(tmp_path / "classes.txt"), "test.json", "-e", "bmp")
        == 0
    )
    assert len(json.loads((tmp_path / "annotations" / "test.json").read_text())["images"]) == 4


def test_download_then_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "configs/sources").mkdir(parents=True)
    text = "dataset: sample\nrecipe: {train: 1, val: 1, test: 0, height: 64, width: 64}\n"
    (tmp_path / "configs/sources/sample.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTOR_DATASETS", str(tmp_path / "store"))
    assert run("download", "sample") == 0
    assert run("link", "sample") == 0
    assert len(list((tmp_path / "data/sample/leftImg8bit/train").rglob("*.png"))) == 1
    out = capsys.readouterr().out
    assert f"sample is in {tmp_path}/store/sample" in out
    assert f"data/sample/gtFine -> {tmp_path}/store/sample/gtFine" in out


def test_errors_reach_the_caller(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="leftImg8bit"):
        run("convert", "cityscapes", str(tmp_path))


@pytest.mark.slow
def test_no_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from detector.data.synthetic import Recipe, write_cityscapes\n"
        "from detector.data.converters import cityscapes_to_coco, images_to_coco, voc_to_coco\n"
        "from detector.data import download\n"
        "from detector.commands import convert, link, download\n"
        "print([m for m in ('torch', 'matplotlib', 'mmcv', 'prefect') if m in sys.modules])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == "[]"
