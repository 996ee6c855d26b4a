"""MMDetection's result layout and its pickle."""

from __future__ import annotations

import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.errors import ConfigError, DatasetError
from detector.evaluation import pickles
from detector.evaluation.results import PanopticDetections, from_mmdet, load_results, save_results, to_mmdet
from detector.structures import masks
from detector.structures.samples import Detections

GOLDEN = Path(__file__).parents[2] / "golden" / "checkpoint" / "results_test.pkl"


def three_detections(*, with_masks: bool) -> Detections:
    """Labels 2, 0, 2."""
    bitmaps = np.stack([np.eye(4, dtype=np.uint8) * (i != 1) for i in range(3)])
    return Detections(
        boxes=torch.arange(12, dtype=torch.float32).reshape(3, 4),
        scores=torch.tensor([0.9, 0.5, 0.25]),
        labels=torch.tensor([2, 0, 2]),
        masks=masks.encode_batch(bitmaps) if with_masks else None,
    )


def test_boxes_are_split_by_class_in_their_order():
    found = to_mmdet(three_detections(with_masks=False), 3)
    assert [a.tolist() for a in found] == [
        [[4, 5, 6, 7, 0.5]],
        [],
        [[0, 1, 2, 3, np.float32(0.9)], [8, 9, 10, 11, 0.25]],
    ]
    assert [(a.shape, a.dtype) for a in found] == [((n, 5), np.float32) for n in (1, 0, 2)]


def test_masks_follow_their_boxes_and_come_back():
    before = three_detections(with_masks=True)
    after = from_mmdet(to_mmdet(before, 3))
    order = [1, 0, 2]
    assert after.labels.tolist() == [0, 2, 2]
    assert after.boxes.tolist() == before.boxes[order].tolist()
    assert after.masks == [before.masks[i] for i in order]


@pytest.mark.parametrize("with_masks", [False, True])
def test_panoptic_maps_keep_the_references_layout(tmp_path, with_masks):
    plain = three_detections(with_masks=with_masks)
    before = PanopticDetections(**vars(plain), panoptic=np.arange(6, dtype=np.int32).reshape(2, 3))
    path = save_results(tmp_path / "r.pkl", [to_mmdet(before, 3)])
    (read,) = pickle.loads(path.read_bytes())  # as the reference's tools do
    assert sorted(read) == ["ins_results", "pan_results"]
    assert isinstance(read["ins_results"], tuple if with_masks else list)
    after = from_mmdet(load_results(path)[0])
    assert isinstance(after, PanopticDetections)
    assert after.panoptic.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert after.boxes.tolist() == plain.boxes[[1, 0, 2]].tolist()


def test_nothing_found_keeps_the_layout():
    empty = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), [])
    boxes, rles = to_mmdet(empty, 2)
    assert ([a.shape for a in boxes], rles) == ([(0, 5), (0, 5)], [[], []])
    assert len(from_mmdet((boxes, rles))) == 0


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_every_protocol_are_read(tmp_path, protocol):
    results = [to_mmdet(three_detections(with_masks=True), 3)]
    path = tmp_path / "r.pickle"
    path.write_bytes(pickle.dumps(results, protocol=protocol))
    boxes, rles = load_results(path)[0]
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(boxes, results[0][0], strict=True))
    assert rles == results[0][1]


def test_the_reference_file_survives_a_round_trip(tmp_path):
    reference = load_results(GOLDEN)
    path = save_results(tmp_path / "r.pkl", [to_mmdet(from_mmdet(r), 3) for r in reference])
    again = pickle.loads(path.read_bytes())  # as the reference's tools do
    assert len(again) == 72
    assert all(
        np.array_equal(a, b) for x, y in zip(reference, again, strict=True) for a, b in zip(x, y, strict=True)
    )
    assert again[0][0].flags.writeable


def test_a_written_file_names_only_what_every_numpy_has(tmp_path):
    path = save_results(tmp_path / "r.pkl", [to_mmdet(three_detections(with_masks=True), 3)])
    names = {a for op, a, _ in pickletools.genops(path.read_bytes()) if op.name.endswith("UNICODE")}
    assert names == {"numpy", "ndarray", "<f4", "builtins", "bytearray", "size", "counts"}


class Harmful:
    """Pickles as a call."""

    def __reduce__(self):
        return (Path.touch, (Path("harm"),))


@pytest.mark.parametrize(
    "content",
    [Harmful(), [np.array([object()], dtype=object)], [bytearray(3), Harmful()], {"not": "a list"}],
)
def test_anything_but_plain_results_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    Path("r.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(DatasetError, match=r"r\.pkl"):
        load_results("r.pkl")
    assert not Path("harm").exists()


@pytest.mark.parametrize(
    "name", [b"numpy\nndarray", b"numpy\ndtype", b"numpy.core.multiarray\n_reconstruct", b"_codecs\nencode"]
)
@pytest.mark.parametrize(
    "state", [b"}X\x07\x00\x00\x00plantedK\x01s", b"N}X\x07\x00\x00\x00plantedK\x01s\x86"]
)
def test_no_pickle_changes_what_it_names(tmp_path, name, state):
    (tmp_path / "r.pkl").write_bytes(b"\x80\x02c" + name + b"\n" + state + b"b.")
    with pytest.raises(DatasetError, match="only use"):
        load_results(tmp_path / "r.pkl")
    assert [item for item in pickles.ResultUnpickler._KNOWN.values() if hasattr(item, "planted")] == []


@pytest.mark.parametrize("content", [b"", b"\x80\x04damaged"])
def test_damaged_files_are_named(tmp_path, content):
    (tmp_path / "r.pkl").write_bytes(content)
    with pytest.raises(DatasetError, match="not a results pickle"):
        load_results(tmp_path / "r.pkl")


def test_the_suffix_rule_of_the_reference(tmp_path):
    with pytest.raises(ConfigError, match=r"\.pkl or \.pickle"):
        save_results(tmp_path / "results.json", [])


@pytest.mark.parametrize("result", [np.zeros((2, 5)), [np.zeros((2, 4))], ([np.zeros((1, 5))], [[]])])
def test_other_layouts_are_refused(result):
    with pytest.raises(DatasetError, match="result"):
        from_mmdet(result)
