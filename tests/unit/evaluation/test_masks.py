"""Run lengths, polygons and bitmaps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from detector.errors import DatasetError
from detector.structures import masks

BITMAPS = hnp.arrays(
    np.uint8, st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1)
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(bitmaps=BITMAPS)
def test_encoding_round_trips_and_measures(bitmaps):
    rles = masks.encode_batch(bitmaps)
    np.testing.assert_array_equal([masks.decode(rle) for rle in rles], list(bitmaps))
    np.testing.assert_array_equal(masks.areas(rles), bitmaps.sum(axis=(1, 2)))
    assert [masks.problem(rle, bitmaps.shape[1:]) for rle in rles] == [None] * len(rles)
    assert [masks.problem(masks.to_json(rle), bitmaps.shape[1:]) for rle in rles] == [None] * len(rles)


@pytest.mark.parametrize("kind", [np.float32, np.uint8, bool])
def test_any_non_zero_value_is_set_and_tensors_are_taken(kind):
    mask = np.array([[0, 3], [7, 0]]).astype(kind)
    expected = [[0, 1], [1, 0]]
    assert masks.decode(masks.encode(mask)).tolist() == expected
    assert masks.decode(masks.encode(torch.from_numpy(mask))).tolist() == expected


def test_large_batches_are_encoded_in_parts(monkeypatch):
    bitmaps = np.random.default_rng(0).integers(0, 2, (5, 8, 8), dtype=np.uint8)
    whole = masks.encode_batch(bitmaps)
    monkeypatch.setattr(masks, "_CHUNK_BYTES", 128)
    assert masks.encode_batch(bitmaps) == whole


def test_boxes_are_tight_and_empty_masks_have_none():
    mask = np.zeros((10, 12), np.uint8)
    empty = masks.encode(mask)
    mask[2:5, 3:9] = 1
    assert masks.boxes_xywh([masks.encode(mask), empty]).tolist() == [[3, 2, 6, 3], [0, 0, 0, 0]]
    assert masks.boxes_xywh([]).shape == (0, 4)


def test_areas_of_more_masks_than_pycocotools_counts():
    bitmaps = np.arange(600)[:, None, None] % 7 > np.arange(6).reshape(2, 3)
    found = masks.areas(masks.encode_batch(bitmaps))
    assert found.tolist() == bitmaps.sum(axis=(1, 2)).tolist()


def test_merge_and_overlap():
    a, b = np.zeros((2, 4, 4), np.uint8)
    a[:2], b[1:3] = 1, 1
    first, second = masks.encode(a), masks.encode(b)
    assert masks.areas(
        [masks.merge([first, second]), masks.merge([first, second], intersect=True)]
    ).tolist() == [12, 4]
    assert masks.iou([first], [second, second], crowd=[False, True]).tolist() == [[4 / 12, 0.5]]
    assert masks.iou([], [first]).shape == (0, 1)


def test_polygons_are_united_and_cut_at_the_border():
    segmentation = [[0, 0, 4, 0, 4, 3, 0, 3], [6, 0, 20, 0, 20, 3, 6, 3]]
    bitmap = masks.decode(masks.from_segmentation(segmentation, (5, 8)))
    expected = np.zeros((5, 8), np.uint8)
    expected[:3, :4] = expected[:3, 6:] = 1
    np.testing.assert_array_equal(bitmap, expected)


def test_run_lengths_are_taken_as_list_text_and_bytes():
    mask = np.zeros((3, 4), np.uint8)
    mask[1, 1:3] = 1
    rle = masks.encode(mask)
    runs = {"size": [3, 4], "counts": [4, 1, 2, 1, 4]}
    for form in (rle, masks.to_json(rle), runs):
        assert masks.from_segmentation(form, (3, 4)) == rle


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "non-empty list"),
        ([], "non-empty list"),
        ([[0, 0, 5, 5]], "three points"),
        ([[0, 0, 5, 5, 3, 2, 1]], "x, y pairs"),
        ({"size": [3, 4], "counts": [4, 1]}, "cover 5 pixels"),
        ({"size": [3, 4], "counts": [14, -2]}, "cover 12 pixels"),
        ({"size": [4, 3], "counts": "<"}, "size"),
        ({"size": [3, 4], "counts": "\x01"}, "run-length string"),
        ({"size": [3, 4], "counts": "ooooooooooooooooo"}, "run-length string"),
        ({"size": [3, 4], "counts": "="}, "cover 13 pixels"),
        ({"size": [3, 4]}, "size and counts"),
    ],
)
def test_malformed_segmentations_are_named(segmentation, message):
    with pytest.raises(DatasetError, match=f"annotation 7: .*{message}"):
        masks.from_segmentation(segmentation, (3, 4), where="annotation 7")


def test_a_single_mask_given_as_a_batch_is_refused():
    with pytest.raises(DatasetError, match="N, H, W"):
        masks.encode_batch(np.zeros((4, 4), np.uint8))


def test_polygons_of_fewer_than_three_points_are_left_out_with_a_warning(caplog):
    square = [0, 0, 2, 0, 2, 2, 0, 2]
    found = masks.from_segmentation([[1, 1, 2, 2], square], (3, 4), where="annotation 7")
    assert found == masks.from_segmentation([square], (3, 4))
    assert "annotation 7: 1 of 2 polygons" in caplog.text


def test_polygons_as_arrays_are_those_of_lists():
    square = [0.0, 0, 2, 0, 2, 2, 0, 2]
    assert masks.from_segmentation([np.array(square)], (3, 4)) == masks.from_segmentation([square], (3, 4))
