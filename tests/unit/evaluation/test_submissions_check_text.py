"""`detector check-submission` on Cityscapes and VOC files: broken ones are refused with the reason."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from detector.errors import DatasetError
from detector.evaluation.submissions.check import check_submission, guess_kind
from detector.evaluation.submissions.package import Package, write_zip
from tests.unit.evaluation.checking import run

BASE = "ulm_000000_000019"


def write_png(path: Path, shape: tuple[int, ...] = (10, 20), dtype: type = np.uint8) -> None:
    cv2.imwrite(str(path), np.zeros(shape, dtype))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound submission: one object on the first image, none on the second."""
    out = tmp_path / "submission"
    out.mkdir()
    write_png(out / f"{BASE}_0_car.png")
    (out / f"{BASE}_pred.txt").write_text(f"{BASE}_0_car.png 26 0.5\n")
    (out / "ulm_000001_000019_pred.txt").write_text("")
    return out


def _line(text: str) -> Callable[[Path], object]:
    return lambda out: (out / f"{BASE}_pred.txt").write_text(text)


def _png(shape: tuple[int, ...], dtype: type = np.uint8) -> Callable[[Path], object]:
    return lambda out: write_png(out / f"{BASE}_0_car.png", shape, dtype)


def _cut_png(out: Path) -> None:
    path = out / f"{BASE}_0_car.png"
    path.write_bytes(path.read_bytes()[:45])


MASK = f"{BASE}_0_car.png"
BROKEN_CITYSCAPES: dict[str, tuple[Callable[[Path], object], str]] = {
    "text missing": (
        lambda o: (o / "ulm_000001_000019_pred.txt").unlink(),
        "missing: ulm_000001_000019_pred.txt",
    ),
    "text of a foreign image": (
        lambda o: (o / "bonn_0_0_pred.txt").write_text(""),
        "image: bonn_0_0_pred.txt has no",
    ),
    "two fields": (_line(f"{MASK} 26\n"), "line: .* line 1: found 2 fields"),
    "two spaces": (_line(f"{MASK}  26 0.5\n"), "line: .* found 4 fields"),
    "mask in a folder": (_line(f"masks/{MASK} 26 0.5\n"), "layout: .* lies in another folder"),
    "class name": (_line(f"{MASK} car 0.5\n"), "class id: .* car is not one of 24, 25"),
    "train id": (_line(f"{MASK} 13 0.5\n"), "class id: .* 13 is not one of 24, 25"),
    "class without evaluation": (_line(f"{MASK} 29 0.5\n"), "class id: .* 29 is not one of"),
    "score is text": (_line(f"{MASK} 26 high\n"), "score: .* high is not a finite number"),
    "score is NaN": (_line(f"{MASK} 26 nan\n"), "score: .* nan is not a finite number"),
    "named twice": (_line(f"{MASK} 26 0.5\n" * 2), "mask: .* line 2: .* is named twice"),
    "mask missing": (lambda o: (o / MASK).unlink(), f"mask: .* mask {MASK} is missing"),
    "mask of another size": (_png((5, 5)), "mask: .* is 5 x 5, expected its image's 20 x 10"),
    "mask of three channels": (
        _png((10, 20, 3)),
        "mask: .* is a PNG of mode RGB, expected a PNG of one channel",
    ),
    "mask of 16 bits": (_png((10, 20), np.uint16), "mask: .* mode I;16, expected a PNG of one channel"),
    "mask cut off": (_cut_png, "mask: .* is not a readable png"),
    "mask that nobody names": (
        lambda o: write_png(o / "extra.png"),
        "unnamed: extra.png is named by no text file",
    ),
    "text in another script": (_line("\u00e4.png 26 0.5\n"), "file: .* cannot be read as text"),
    "folder in the folder": (
        lambda o: shutil.copytree(o, o / "again"),
        f"layout: again/{BASE}.* lies in a folder",
    ),
    "no text": (
        lambda o: [p.unlink() for p in o.glob("*.txt")],
        "layout: submission.* holds no <image>_pred.txt",
    ),
}


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize(("harm", "reason"), BROKEN_CITYSCAPES.values(), ids=BROKEN_CITYSCAPES)
def test_a_broken_cityscapes_submission_is_refused(folder, info, capsys, form, harm, reason):
    harm(folder)
    path = folder if form == "folder" else Path(shutil.make_archive(str(folder), "zip", folder))
    code, printed = run(capsys, path, "--annotations", info, "--kind", "cityscapes", "--show", "9")
    assert code == 1
    assert re.search(reason, printed)


def test_a_sound_cityscapes_folder_passes_and_is_zipped(folder, info, capsys):
    out = folder.parent / "out.zip"
    code, printed = run(capsys, folder, "--annotations", info, "--zip", out)
    assert (code, printed.splitlines()[0]) == (0, "note: 1 masks on 2 of 2 images")
    assert zipfile.ZipFile(out).namelist() == sorted(p.name for p in folder.iterdir())
    assert run(capsys, out, "--annotations", info)[0] == 0


def test_cityscapes_masks_must_agree_without_annotations(folder):
    write_png(folder / "b.png", (5, 5))
    (folder / "ulm_000001_000019_pred.txt").write_text("b.png 26 0.5\n")
    (line,) = check_submission(folder).findings.lines()
    assert "b.png is 5 x 5, expected its image's 20 x 10" in line


# --- VOC ----------------------------------------------------------------------------------------------------

STEM = f"{BASE}_leftImg8bit"
BROKEN_VOC: dict[str, tuple[str, str, str]] = {
    "five fields": ("comp4_det_test_car.txt", f"{STEM} 0.5 1 1 5\n", "line: .* found 5 fields"),
    "foreign image": (
        "comp4_det_test_car.txt",
        "x 0.5 1 1 5 5\n",
        "image: .* 'x' is not an image of the split",
    ),
    "text for a number": (
        "comp4_det_test_car.txt",
        f"{STEM} a 1 1 5 5\n",
        "number: .* expected five numbers",
    ),
    "not finite": ("comp4_det_test_car.txt", f"{STEM} inf 1 1 5 5\n", "number: .* expected finite numbers"),
    "inverted": ("comp4_det_test_car.txt", f"{STEM} 0.5 5 1 1 5\n", "box: .* is inverted"),
    "from zero": ("comp4_det_test_car.txt", f"{STEM} 0.5 -1 1 5 5\n", "box: .* leaves the image of 20 x 10"),
    "beyond": ("comp4_det_test_car.txt", f"{STEM} 0.5 1 1 22 5\n", "box: .* leaves the image of 20 x 10"),
    "another name": ("car.txt", "", "name: car.txt, expected comp3_det_"),
    "foreign class": ("comp4_det_test_zebra.txt", "", "class: .* 'zebra' is none of 2 classes"),
    "in a folder": ("a/comp4_det_test_car.txt", "", "layout: a/comp4_det_test_car.txt lies in a folder"),
    "two competitions": (
        "comp3_det_test_car.txt",
        "",
        "name: found files of comp3_det_test and comp4_det_test",
    ),
}


@pytest.mark.parametrize(("name", "text", "reason"), BROKEN_VOC.values(), ids=BROKEN_VOC)
def test_a_broken_voc_submission_is_refused(tmp_path, info, capsys, name, text, reason):
    out = tmp_path / "voc"
    (out / name).parent.mkdir(parents=True)
    (out / "comp4_det_test_person.txt").write_text(f"{STEM} 0.5 1 1 20 10\n")
    (out / name).write_text(text)
    code, printed = run(capsys, out, "--annotations", info)
    assert code == 1
    assert re.search(reason, printed)


def test_a_voc_submission_is_packed_as_the_server_lays_it_out(tmp_path, capsys):
    listed = tmp_path / "test.txt"
    listed.write_text("2008_000001\n")
    out = tmp_path / "voc"
    out.mkdir()
    (out / "comp4_det_test_car.txt").write_text("2008_000001 0.5 1 1 20 10\n")
    code, printed = run(capsys, out, "--annotations", listed, "--zip", tmp_path / "v.zip")
    assert code == 0
    assert "no file for aeroplane, bicycle" in printed
    assert zipfile.ZipFile(tmp_path / "v.zip").namelist() == ["results/VOC2012/Main/comp4_det_test_car.txt"]
    assert run(capsys, tmp_path / "v.zip", "--annotations", listed)[0] == 0


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["a_pred.txt", "a.png"], "cityscapes"),
        (["d/comp3_det_val_cat.txt"], "voc"),
        (["r.json"], "coco"),
        ([], "coco"),
    ],
)
def test_the_files_names_tell_the_server(names, kind):
    assert guess_kind(Package(Path("p"), "zip", dict.fromkeys(names, bytes)), None) == kind


def test_a_zip_too_large_is_not_left_behind(tmp_path):
    with pytest.raises(DatasetError, match="expected at most 1e-05 MB"):
        write_zip(tmp_path / "s.zip", [("a.json", lambda: b"0123456789")], max_bytes=10)
    assert list(tmp_path.iterdir()) == []
