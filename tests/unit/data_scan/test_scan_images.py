"""One file at a time: what strict decoding tells."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from detector.data.scan.images import Job, check_file, difference_hash
from tests.unit.data_scan.trees import pixels, turned_jpeg, with_broken_middle


def written(folder: Path, ending: str, change: str) -> Path:
    data = bytes(cv2.imencode(ending, pixels(1))[1].tobytes())
    changes = {
        "whole": data,
        "half": data[: len(data) // 2],
        "end": data[:-30],
        "middle": with_broken_middle(data),
        "longer": data + b"trailing bytes",
    }
    path = folder / f"{change}{ending}"
    path.write_bytes(changes[change])
    return path


@pytest.mark.parametrize("ending", [".jpg", ".png", ".bmp", ".webp", ".tif"])
@pytest.mark.parametrize("change", ["whole", "longer"])
def test_whole_files_are_sound(tmp_path: Path, ending: str, change: str) -> None:
    facts = check_file(Job(str(written(tmp_path, ending, change))))
    assert (facts.hw, facts.orientation, facts.unreadable, facts.damage) == ((60, 80), 1, "", "")


@pytest.mark.parametrize("ending", [".jpg", ".png", ".bmp", ".webp", ".tif"])
@pytest.mark.parametrize("change", ["half", "end"])
def test_files_that_were_cut_are_found(tmp_path: Path, ending: str, change: str) -> None:
    facts = check_file(Job(str(written(tmp_path, ending, change))))
    assert facts.unreadable or facts.damage
    assert facts.hw is None or facts.damage


@pytest.mark.parametrize("ending", [".jpg", ".png", ".tif"])
def test_damage_in_the_middle_is_found(tmp_path: Path, ending: str) -> None:
    facts = check_file(Job(str(written(tmp_path, ending, "middle"))))
    assert facts.unreadable or facts.damage


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_decides_the_size_that_training_sees(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.jpg"
    turned_jpeg(path, 1, orientation)
    facts = check_file(Job(str(path)))
    assert facts.orientation == orientation
    assert facts.hw == ((80, 60) if orientation >= 5 else (60, 80))


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    assert "No such file" in check_file(Job(str(tmp_path / "none.jpg"))).unreadable
    assert "Is a directory" in check_file(Job(str(tmp_path))).unreadable


def test_standard_error_is_given_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert check_file(Job(str(written(tmp_path, ".jpg", "middle")))).damage
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


def test_only_what_is_asked_for_is_made(tmp_path: Path) -> None:
    path = str(written(tmp_path, ".png", "whole"))
    facts = check_file(Job(path, decode=False, digest=True))
    assert len(facts.digest) == 64
    assert facts.hw is None
    assert facts.likeness is None
    assert check_file(Job(path)).digest == ""


@pytest.mark.parametrize("size", [(30, 40), (120, 160), (90, 80)], ids=str)
def test_the_difference_hash_bears_a_change_of_size_and_compression(size: tuple[int, int]) -> None:
    image = pixels(2)
    other = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    coded = cv2.imdecode(cv2.imencode(".jpg", other, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)
    a, b, stranger = difference_hash(image), difference_hash(coded), difference_hash(pixels(3))
    assert a is not None
    assert b is not None
    assert stranger is not None
    assert (a ^ b).bit_count() <= 4 < (a ^ stranger).bit_count()


def test_an_image_without_structure_has_no_hash() -> None:
    assert difference_hash(np.full((50, 60, 3), 128, np.uint8)) is None
