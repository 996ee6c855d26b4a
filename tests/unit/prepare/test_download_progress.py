"""What a user sees of a download: one bar at a time, the remaining time, and the parts of a data set."""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import pytest

from detector.commands import download as command
from detector.data.download import Bars
from detector.errors import DatasetError
from tests.unit.prepare.loopback import Behaviour, serving


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return command.run(parser.parse_args(["download", *words]))


def test_bars_follow_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars() as bars:
        bars("train2017.zip")(1_000_000, 2_000_000)
        bars("extract train2017.zip")(2_000_000, 2_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["train2017.zip: done", "extract train2017.zip: done"]


def test_remaining_time_does_not_count_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("detector.progress.time.monotonic", lambda: clock[0])
    bars = Bars()
    show = bars("x.zip")
    show(900, 1000)
    clock[0] = 10.0
    show(950, 1000)
    assert bars._open is not None
    assert bars._open.eta_s == pytest.approx(10.0)


def test_line_tells_how_far_and_how_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr("detector.progress.time.monotonic", lambda: clock[0])
    show = Bars()("train2017.zip")
    show(0, 100_000_000)
    clock[0] = 20.0
    show(25_000_000, 100_000_000)
    assert capsys.readouterr().err == ("train2017.zip: 25.0/100.0 MB (25 %), 0:00:20 so far, 0:01:00 left\n")


def test_failed_download_does_not_say_done(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with Bars() as bars:
            bars("x.zip")(1, 2)
            raise DatasetError("no")

    with pytest.raises(DatasetError):
        fail()
    assert "done" not in capsys.readouterr().err


def test_list_of_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("coco", "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "train2017", "19336.9", "MB", "http://images.cocodataset.org/zips/train2017.zip",
    ]  # fmt: skip
    assert lines[5].endswith("panoptic_annotations_trainval2017.zip  (only when named)")
    assert "size unknown" in lines[6]


@pytest.mark.parametrize("name", ["sample", "voc", "cityscapes", "lvis_v0.5", "lvis_v1"])
def test_every_data_set_can_be_listed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--list") == 0
    assert capsys.readouterr().out


def test_mirror_and_parts_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as bundle:
        bundle.writestr("lvis.json", "{}")
    (tmp_path / "configs/sources").mkdir(parents=True)
    (tmp_path / "configs/sources/lvis_v1.yaml").write_text(
        "dataset: lvis_v1\narchives:\n"
        "- {part: val, url: 'http://127.0.0.1:9/v.zip', into: annotations}\n"
        "- {part: train, url: 'http://127.0.0.1:9/t.zip', into: annotations}\n"
    )
    monkeypatch.chdir(tmp_path)
    with serving(Behaviour({"archives/v.zip": stream.getvalue()})) as url:
        mirror = f"{url}/archives/"
        assert run("lvis_v1", "--store", "store", "--parts", "val", "--mirror", mirror) == 0
    assert (tmp_path / "store/lvis_v1/annotations/lvis.json").is_file()
    captured = capsys.readouterr()
    assert captured.out == f"lvis_v1 is in {tmp_path}/store/lvis_v1\n"
    assert captured.err.splitlines()[0].startswith("v.zip: done, 0.0/0.0 MB (100 %)")
