"""``detector test --show --show-dir``, batches by ``data.test.samples_per_gpu``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detector import cli
from detector.engine import evaluate
from detector.evaluation.results import from_mmdet
from detector.inference import window
from tests.unit.inference.tiny_models import PIPELINE, image, write_model

SIZES = ((96, 64), (64, 96), (96, 64))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of three images, config.py and model.pth, without a display."""
    write_model(tmp_path)
    (tmp_path / "images").mkdir()
    rows = []
    for i, (width, height) in enumerate(SIZES):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), image(width, height, i))
        rows.append({"id": i + 1, "file_name": f"{i}.png", "width": width, "height": height})
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20], "area": 400, "iscrowd": 0}
    categories = [{"id": i, "name": name} for i, name in enumerate("abc", start=1)]
    content = {"images": rows, "annotations": [box], "categories": categories}
    (tmp_path / "ann.json").write_text(json.dumps(content))
    test = {
        "type": "CocoDataset", "classes": ("a", "b", "c"), "pipeline": PIPELINE,
        "ann_file": "ann.json", "img_prefix": "images",
    }  # fmt: skip
    text = (tmp_path / "config.py").read_text().split("data = ")[0]
    (tmp_path / "config.py").write_text(f"{text}data = dict(workers_per_gpu=0, test={test!r})\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(window, "why_no_window", lambda: "there is no display")
    return tmp_path


def run(*arguments: str) -> int:
    return cli.main(["test", "config.py", "model.pth", "--device", "cpu", *arguments])


def test_pictures_are_drawn_as_the_test_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []
    real = evaluate.predict_images

    def spy(*arguments: Any) -> Any:
        seen.append(len(list(Path("drawn").glob("*.png"))))
        return real(*arguments)

    monkeypatch.setattr(evaluate, "predict_images", spy)
    assert run("--show-dir", "drawn", "--show-score-thr", "0.2") == 0
    assert seen == [0, 1, 2]
    assert "drawn: 3 images in drawn" in capsys.readouterr().out
    for i, (width, height) in enumerate(SIZES):
        assert cv2.imread(f"drawn/{i}.png").shape == (height, width, 3)


def test_the_threshold_of_drawing_counts(place: Path) -> None:
    run("--show-dir", "all", "--show-score-thr", "0")
    run("--show-dir", "none", "--show-score-thr", "1")
    original = cv2.imread("images/0.png")
    assert (cv2.imread("all/0.png") != original).any()
    np.testing.assert_array_equal(cv2.imread("none/0.png"), original)


def test_without_a_display_show_writes_a_folder(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run("--show") == 0
    assert "there is no display; the pictures go to the folder show" in caplog.text
    assert len(list(Path("show").glob("*.png"))) == 3


def test_a_window_shows_each_image_until_it_is_closed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, ...]] = []
    monkeypatch.setattr(window, "why_no_window", lambda: "")
    monkeypatch.setattr(
        window, "show", lambda picture, *_, **__: shown.append(picture.shape) or len(shown) < 2
    )
    assert run("--show") == 0
    assert shown == [(64, 96, 3), (96, 64, 3)]
    assert not Path("show").exists()


def test_batches_have_the_size_of_the_config_and_the_same_results(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import pickle

    sizes: list[int] = []
    real = evaluate.predict_images
    monkeypatch.setattr(evaluate, "predict_images", lambda m, v: sizes.append(len(v[0].metas)) or real(m, v))
    assert run("--out", "one.pkl") == 0
    Path("config.py").write_text(
        Path("config.py")
        .read_text()
        .replace("{'type': 'CocoDataset'", "{'samples_per_gpu': 2, 'type': 'CocoDataset'")
    )
    assert run("--out", "two.pkl") == 0
    assert sizes == [1, 1, 1, 1, 1, 1]  # neighbours of other sizes share no batch
    cv2.imwrite("images/1.png", image(96, 64, 1))
    text = Path("ann.json").read_text().replace('"width": 64, "height": 96', '"width": 96, "height": 64')
    Path("ann.json").write_text(text)
    del sizes[:]
    assert run("--out", "three.pkl") == 0
    assert sizes == [2, 1]
    assert caplog.text.count("ImageToTensor is read as DefaultFormatBundle") == 2
    one, two = (pickle.loads(Path(f"{name}.pkl").read_bytes()) for name in ("one", "two"))
    for wanted, found in zip(map(from_mmdet, one), map(from_mmdet, two), strict=True):
        assert (wanted.boxes - found.boxes).abs().max() < 1e-3


def test_drawings_never_replace_images(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--show-dir", "images") == 1
    assert "would replace an image" in capsys.readouterr().err
