"""Inference from python: batches, class names, and where drawings go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from detector.checkpoint.files import save_checkpoint
from detector.errors import ConfigError
from detector.inference import MAX_BATCH, detect, draw_results, inference_detector
from detector.structures.samples import Detections
from tests.unit.inference.tiny_models import RPN, detector, image


def test_results_do_not_depend_on_the_other_images_of_the_call(tmp_path: Path) -> None:
    model = detector(tmp_path)
    images = [image(96, 64), image(64, 96, 1), image(60, 96, 2), image(96, 40, 3)]
    together = detect(model, images)
    alone = [detect(model, [one])[0] for one in images]
    for got, wanted in zip(together, alone, strict=True):
        assert len(wanted) == 10
        torch.testing.assert_close(got.scores, wanted.scores, rtol=0, atol=1e-5)
        torch.testing.assert_close(got.boxes, wanted.boxes, rtol=1e-4, atol=1e-2)


def test_batches_are_bounded_and_of_one_size(tmp_path: Path) -> None:
    shapes: list[tuple[int, ...]] = []
    model = detector(tmp_path)
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))

    def predict(batch: Any, *, rescale: bool) -> list[Detections]:
        shapes.append(tuple(batch.images.shape))
        return [nothing] * len(batch.metas)

    model.predict = predict
    found = detect(model, [image(64, 96)] + [image(96, 64)] * (MAX_BATCH + 1) + [image(64, 96)])
    assert len(found) == MAX_BATCH + 3
    assert shapes == [(2, 3, 96, 64), (MAX_BATCH, 3, 64, 96), (1, 3, 64, 96)]


def test_no_images_give_no_results(tmp_path: Path) -> None:
    assert inference_detector(detector(tmp_path), []) == []


@pytest.mark.parametrize("test", [{"type": "VOCDataset"}, {"type": "CocoDataset"}], ids=str)
def test_all_labels_are_kept_when_the_names_do_not_fit(
    tmp_path: Path, test: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = detector(tmp_path, **test)
    assert model.CLASSES == ("class 0", "class 1", "class 2")
    assert "for a model of 3 classes" in caplog.text
    boxes = inference_detector(model, image(96, 64))
    assert len(boxes) == 3
    assert sum(len(rows) for rows in boxes) == 10


@pytest.mark.parametrize(
    ("stored", "expected"), [(("x", "y", "z"), ("x", "y", "z")), (("x",), ("class 0", "class 1", "class 2"))]
)
def test_names_of_the_checkpoint_count_where_they_fit(tmp_path: Path, stored: Any, expected: Any) -> None:
    path = tmp_path / "x.pth"
    save_checkpoint(path, {"state_dict": detector(tmp_path).state_dict(), "meta": {"CLASSES": stored}})
    assert expected == detector(tmp_path, checkpoint=path).CLASSES


def test_proposals_have_one_label(tmp_path: Path) -> None:
    model = detector(tmp_path, RPN)
    assert [rows.shape for rows in inference_detector(model, image(96, 64))] == [(50, 5)]
    assert len(model.CLASSES) == 1


class Images:
    """A data set of image files in ``folder``, as far as drawing reads it."""

    class_names, palette = ("a",), ((255, 0, 0),)

    def __init__(self, folder: Path, *names: str) -> None:
        self.img_prefix, self.names = folder, names
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name), image(40, 30))

    def __len__(self) -> int:
        return len(self.names)

    def image_info(self, i: int) -> dict[str, Any]:
        return {"id": i, "file_name": self.names[i], "height": 30, "width": 40}


def draw(dataset: Any, folder: Path) -> list[Path]:
    found = Detections(torch.tensor([[5.0, 5, 20, 20]]), torch.tensor([0.9]), torch.tensor([0]))
    return draw_results(dataset, dict.fromkeys(range(len(dataset)), found), folder)


def test_images_outside_of_the_prefix_are_drawn_by_their_bare_name(tmp_path: Path) -> None:
    outside, upward = tmp_path / "other" / "x.png", "../other/y.png"
    (tmp_path / "images" / "sub").mkdir(parents=True)
    dataset = Images(tmp_path / "images", "sub/a.png", str(outside), upward, "sub/../b.png")
    before = outside.read_bytes()
    paths = draw(dataset, tmp_path / "drawn")
    assert [p.relative_to(tmp_path / "drawn").as_posix() for p in paths] == [
        "sub/a.png",
        "x.png",
        "y.png",
        "b.png",
    ]
    assert [p for p in paths if not p.is_file()] == []
    assert outside.read_bytes() == before
    assert sorted(p.name for p in outside.parent.iterdir()) == ["x.png", "y.png"]


def test_equal_bare_names_do_not_replace_each_other(tmp_path: Path) -> None:
    dataset = Images(tmp_path / "images", "../one/x.png", "../two/x.png")
    assert len(set(draw(dataset, tmp_path / "drawn"))) == 2


@pytest.mark.parametrize("folder", ["images", "images/../images", "link", "other"])
def test_a_drawing_never_replaces_an_image(tmp_path: Path, folder: str) -> None:
    dataset = Images(tmp_path / "images", "a.png", "../other/b.png")
    (tmp_path / "link").symlink_to(tmp_path / "images")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.png")}
    with pytest.raises(ConfigError, match="would replace"):
        draw(dataset, tmp_path / folder)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.png")} == before
