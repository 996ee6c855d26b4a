"""Drawing: what is drawn, where the labels go, what is written."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from detector import visualize
from detector.errors import DatasetError
from detector.structures import masks
from detector.structures.samples import Detections

GREY = np.full((200, 300, 3), 128, np.uint8)


def detections(boxes, scores, rles=None) -> Detections:
    """Detections of label 0."""
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Detections(tensor, torch.tensor(scores), torch.zeros(len(scores), dtype=torch.int64), rles)


def test_the_threshold_is_exclusive_and_the_input_is_not_touched():
    before = GREY.copy()
    same = visualize.draw_detections(GREY, detections([[50, 50, 150, 150]], [0.5]), ("a",), score_thr=0.5)
    drawn = visualize.draw_detections(GREY, detections([[50, 50, 150, 150]], [0.5]), ("a",), score_thr=0.49)
    np.testing.assert_array_equal(same, before)
    np.testing.assert_array_equal(GREY, before)
    assert (drawn != before).any()


def test_boxes_have_the_palette_colour_in_bgr():
    drawn = visualize.draw_detections(
        GREY, detections([[50, 60, 150, 150]], [0.9]), ("a",), palette=[(250, 200, 10)]
    )
    assert drawn[150, 100].tolist() == [10, 200, 250]
    assert drawn[100, 100].tolist() == [128, 128, 128]


def test_masks_are_translucent_with_a_contour():
    bitmap = np.zeros((200, 300), np.uint8)
    bitmap[80:120, 80:120] = 1
    found = detections([[10, 150, 290, 190]], [0.9], [masks.encode(bitmap)])
    drawn = visualize.draw_detections(GREY, found, ("a",), palette=[(0, 0, 255)])
    assert drawn[100, 100].tolist() == [int(128 * 0.55 + 255 * 0.45), int(128 * 0.55), int(128 * 0.55)]
    assert drawn[80, 100, 0] > drawn[100, 100, 0]
    assert drawn[60, 60].tolist() == [128, 128, 128]


def test_labels_stay_inside_and_do_not_cover_each_other(monkeypatch):
    """Four objects crowded into a corner: their labels are placed apart, within the picture."""
    placed: list = []
    place = visualize._place
    monkeypatch.setattr(visualize, "_place", lambda *a: placed.append(place(*a)) or placed[-1])
    boxes = [[0, 0, 60, 60], [2, 2, 62, 62], [4, 4, 64, 64], [270, 180, 299, 199]]
    visualize.draw_detections(GREY, detections(boxes, [0.9, 0.8, 0.7, 0.6]), ("a class",))
    assert len(placed) == 4
    assert all(0 <= x1 < x2 <= 300 and 0 <= y1 < y2 <= 200 for x1, y1, x2, y2 in placed)
    overlaps = [visualize._overlap(a, b) for i, a in enumerate(placed) for b in placed[:i]]
    assert overlaps == [0] * 6


@pytest.mark.parametrize(
    ("height", "width", "factor"), [(192, 384, 2), (100, 100, 7), (640, 480, 1), (1024, 2048, 1)]
)
def test_small_images_are_enlarged_by_a_whole_factor(height, width, factor):
    image = np.zeros((height, width, 3), np.uint8)
    found = detections([[0, 0, width, height]], [0.9], [masks.encode(np.ones((height, width), np.uint8))])
    assert visualize.draw_detections(image, found, ("a",), enlarge=True).shape == (
        height * factor,
        width * factor,
        3,
    )
    assert visualize.draw_detections(image, found, ("a",)).shape == image.shape


@pytest.mark.parametrize("shape", [(200, 300, 3), (100, 300, 3)])
def test_ground_truth_is_shown_beside_or_above(tmp_path, shape):
    image = np.full(shape, 128, np.uint8)
    one = detections([[10, 10, 60, 60]], [0.9])
    picture = visualize.side_by_side(
        image, one, one, ("a",), enlarge=False, out_file=tmp_path / "new" / "p.png"
    )
    wide = shape[1] > 1.6 * shape[0]
    assert (picture.shape[1] == shape[1]) == wide
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "new" / "p.png")), picture)


def test_odd_detections_do_not_break_the_drawing():
    boxes = [[0, 0, 0, 0], [-500, -500, 900, 900], [float("nan")] * 4, [400, 400, 500, 500]]
    drawn = visualize.draw_detections(GREY, detections(boxes, [0.9] * 4), ())
    assert drawn.shape == GREY.shape
    np.testing.assert_array_equal(visualize.draw_detections(GREY, detections([], []), ()), GREY)


def test_palettes_tell_classes_apart():
    assert visualize.palette_for(("person", "car")) == [(220, 20, 60), (0, 0, 142)]
    assert len(set(visualize.palette_for([str(i) for i in range(80)]))) == 80


@pytest.mark.parametrize("image", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3), np.float32)])
def test_other_images_are_refused(image):
    with pytest.raises(DatasetError, match="image to draw on"):
        visualize.draw_detections(image, detections([], []), ("a",))


@pytest.mark.parametrize("name", ["p.unknown", "p.txt/p.png"])
def test_places_that_cannot_be_written_are_named(tmp_path, name):
    (tmp_path / "p.txt").touch()
    with pytest.raises(DatasetError, match="cannot write"):
        visualize.write_image(tmp_path / name, GREY)
