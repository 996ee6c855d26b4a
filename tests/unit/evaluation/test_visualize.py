"""Drawing: what is drawn, where the labels go, what is written."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from detector import visualize
from detector.data.datasets.cityscapes import CityscapesDataset
from detector.data.datasets.coco import CocoDataset
from detector.data.datasets.voc import VOCDataset
from detector.errors import DatasetError
from detector.structures import masks
from detector.structures.samples import Detections
from detector.visualize import drawing
from detector.visualize.colors import brightness, lightened
from detector.visualize.labels import Label, Lettering, overlap, place_labels

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


def placed_labels(canvas, boxes, name="a class"):
    """Where the labels of boxes go, the first box being the surest."""
    tags = [Label(name, f"{1 - i / 100:.2f}", tuple(box), (0, 0, 255)) for i, box in enumerate(boxes)]
    return place_labels(tags, Lettering.of(0.4), canvas)


def test_labels_stay_inside_and_do_not_cover_each_other():
    """Four objects crowded into a corner: their labels are placed apart, within the picture."""
    boxes = [[0, 0, 60, 60], [2, 2, 62, 62], [4, 4, 64, 64], [270, 180, 299, 199]]
    rects = [label.rect for label in placed_labels(GREY, boxes)]
    assert len(rects) == 4
    assert all(0 <= x1 < x2 <= 300 and 0 <= y1 < y2 <= 200 for x1, y1, x2, y2 in rects)
    overlaps = [overlap(a, b) for i, a in enumerate(rects) for b in rects[:i]]
    assert overlaps == [0] * 6


def test_labels_leave_most_of_a_crowded_picture_free():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, (280, 180), (200, 2))
    found = placed_labels(GREY, [[x, y, x + 20, y + 20] for x, y in corners])
    covered = np.zeros(GREY.shape[:2], bool)
    for label in found:
        x1, y1, x2, y2 = label.rect
        covered[y1:y2, x1:x2] = True
    assert 10 < len(found) < 200
    assert covered.mean() <= 0.4
    assert [label.label.score for label in found[:2]] == ["1.00", "0.99"]  # the surest ones are kept


def test_a_label_gets_smaller_before_it_covers_another():
    boxes = [[0, 0, 90, 12], [0, 0, 90, 12], [0, 0, 90, 12], [0, 0, 90, 12]]
    canvas = np.zeros((60, 90, 3), np.uint8)
    scales = [label.lettering.scale for label in placed_labels(canvas, boxes, "a")]
    assert scales[0] == 0.4
    assert len(scales) >= 2


def test_a_text_is_cut_to_a_narrow_picture():
    canvas = np.zeros((48, 64, 3), np.uint8)
    (label,) = placed_labels(canvas, [[0, 20, 30, 40]], "a long class name")
    assert label.text.endswith("..")
    assert label.rect[2] - label.rect[0] <= 64


@pytest.mark.parametrize(("side", "least"), [(64, 0.4), (640, 0.6), (4000, 2.0)])
def test_letters_grow_with_the_picture(monkeypatch, side, least):
    seen = []
    monkeypatch.setattr(drawing, "draw_labels", lambda canvas, tags, lettering: seen.append(lettering.scale))
    visualize.draw_detections(
        np.zeros((side, side, 3), np.uint8), detections([[0, 0, 20, 20]], [0.9]), ("a",)
    )
    assert seen[0] == pytest.approx(max(0.4, min(2.0, side / 1050)), abs=0.01)
    assert seen[0] >= least


def test_what_the_user_sets_is_drawn():
    look = visualize.Look(boxes=[(10, 20, 200)], thickness=9, text=(255, 0, 0))
    drawn = visualize.draw_detections(GREY, detections([[50, 60, 150, 150]], [0.9]), ("a",), look=look)
    assert drawn[146:155, 100].tolist() == [[200, 20, 10]] * 9
    assert (drawn == (0, 0, 255)).all(axis=2).any()


def test_boxes_of_a_mask_model_are_those_around_the_masks():
    bitmap = np.zeros((200, 300), np.uint8)
    bitmap[80:120, 100:180] = 1
    found = detections([[0, 0, 0, 0]], [0.9], [masks.encode(bitmap)])
    drawn = visualize.draw_detections(GREY, found, ("a",), palette=[(250, 200, 10)])
    assert drawn[120, 140].tolist() == [10, 200, 250]


@pytest.mark.parametrize("name", ["coco", "voc", "citys", "random"])
def test_palettes_by_name_give_a_colour_per_class(name):
    names = ("person", "car", "a new thing")
    colors = visualize.named_palette(name, names)
    assert len(colors) == 3
    kinds = {"coco": CocoDataset, "citys": CityscapesDataset, "voc": VOCDataset}
    if name != "random":
        kind = kinds[name]
        assert colors[:2] == [kind.PALETTE[kind.CLASSES.index(label)] for label in names[:2]]
        assert colors[2] == kind.PALETTE[2]


def test_dark_colours_are_lightened_for_thin_lines():
    for color in ((0, 0, 0), (142, 0, 0), (70, 0, 0)):
        assert brightness(lightened(color)) > 90
    assert lightened((10, 200, 250)) == (10, 200, 250)


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
