"""COCO-format files: which images and boxes count, and what the samples hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch

from detector.data.datasets import SampleKey, build_dataset
from detector.data.datasets.coco import CocoDataset
from detector.data.datasets.index import Segmentations, Strings


def test_sample_holds_image_targets_and_meta(ten: Any) -> None:
    dataset = build_dataset(ten.section(masks=True))
    image, targets, meta = dataset[SampleKey(index=0, epoch=0)]
    assert image.shape[0] == 3
    assert image.dtype == torch.float32
    assert image.is_contiguous()
    assert meta.ori_hw == (48, 64)
    assert meta.image_id == 0
    assert meta.ori_filename == "0.png"
    assert meta.pad_hw == tuple(image.shape[1:]) == tuple(targets.masks.shape[1:])
    assert meta.pad_hw[0] % 32 == meta.pad_hw[1] % 32 == 0
    assert targets.labels.tolist() == [0, 1]
    assert targets.boxes.dtype == torch.float32
    # a mask's extent is its box to within the rounding of one pixel
    rows = targets.masks[0].any(dim=1).nonzero()
    assert abs(float(rows[0]) - float(targets.boxes[0, 1])) <= 1


def test_box_of_the_file_reaches_the_input_scaled(ten: Any) -> None:
    section = ten.section()
    section["pipeline"][2] = {"type": "Resize", "img_scale": (128, 96)}
    section["pipeline"][3] = {"type": "RandomFlip", "flip_ratio": 0.0}
    _, targets, meta = build_dataset(section)[0]
    assert meta.scale_factor == (2.0, 2.0, 2.0, 2.0)
    assert targets.boxes.tolist() == [[8.0, 10.0, 48.0, 30.0], [20.0, 40.0, 36.0, 64.0]]


def test_classes_map_by_name_not_by_position(ten: Any) -> None:
    dataset = build_dataset(ten.section(classes=("dog", "cat")))
    assert dataset.cat_ids == (3, 7)
    assert dataset[0][1].labels.tolist() == [1, 0]


@pytest.mark.parametrize("classes", ["dog", ["dog"], ("dog",)])
def test_one_class_in_any_form(ten: Any, classes: Any) -> None:
    dataset = build_dataset(ten.section(classes=classes))
    assert dataset.class_names == ("dog",)
    assert dataset[0][1].labels.tolist() == [0]


def test_classes_from_a_file(ten: Any, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("dog\n\ncat\n")
    assert build_dataset(ten.section(classes=str(path))).class_names == ("dog", "cat")


@pytest.mark.parametrize(
    ("xywh", "more", "kept"),
    [
        ([1, 1, 10, 10], {}, 1),
        ([1, 1, 0.5, 10], {}, 0),
        ([1, 1, 10, 10], {"area": 0}, 0),
        ([1, 1, 10, 10], {"ignore": 1}, 0),
        ([200, 1, 10, 10], {}, 0),
        ([-5, -5, 10, 10], {}, 1),
        ([1, 1, 10, 10], {"category_id": 99}, 0),
    ],
)
def test_which_boxes_count(coco: Any, xywh: list[float], more: dict[str, Any], kept: int) -> None:
    coco.image(1, 64, 48)
    coco.box(1, 7, xywh, **more)
    dataset = build_dataset(coco.section(filter_empty_gt=False))
    assert len(dataset[0][1].boxes) == kept


def test_cityscapes_keeps_boxes_outside_the_image_and_drops_crowd_only_images(coco: Any) -> None:
    for i in range(3):
        coco.image(i, 64, 48)
    coco.box(0, 7, [200, 1, 10, 10])
    coco.box(1, 7, [1, 1, 10, 10], iscrowd=1)
    coco.box(2, 7, [1, 1, 10, 10], iscrowd=1)
    coco.box(2, 3, [5, 5, 20, 20])
    section = coco.section(type="CityscapesDataset")
    dataset = build_dataset(section)
    assert dataset.image_ids == [0, 2]
    assert len(dataset.annotations(0).boxes) == 1
    # COCO's rule keeps the crowd image and drops the far box instead
    assert build_dataset({**section, "type": "CocoDataset"}).image_ids == [0, 1, 2]


def test_crowds_are_ignored_boxes(coco: Any) -> None:
    coco.image(1, 64, 48)
    coco.box(1, 7, [1, 1, 10, 10], iscrowd=1)
    coco.box(1, 3, [5, 5, 20, 20])
    found = build_dataset(coco.section()).annotations(0)
    assert found.boxes.tolist() == [[5, 5, 25, 25]]
    assert found.ignore_boxes.tolist() == [[1, 1, 11, 11]]


def test_training_leaves_out_small_and_empty_images_and_testing_keeps_all(coco: Any) -> None:
    coco.image("a", 64, 48)
    coco.image("b", 64, 31)
    coco.image("c", 64, 48)
    coco.box("a", 7, [1, 1, 10, 10])
    coco.box("b", 7, [1, 1, 10, 10])
    assert build_dataset(coco.section()).image_ids == ["a"]
    assert build_dataset(coco.section(filter_empty_gt=False)).image_ids == ["a", "c"]
    assert build_dataset(coco.section(train=False), test_mode=True).image_ids == ["a", "b", "c"]


def test_order_of_images_and_annotations_is_the_file_s(coco: Any) -> None:
    for key in (5, 2, 9):
        coco.image(key, 64, 48)
    coco.box(9, 7, [1, 1, 9, 9])
    coco.box(5, 3, [2, 2, 9, 9])
    coco.box(9, 3, [3, 3, 9, 9])
    coco.box(2, 3, [4, 4, 9, 9])
    coco.box(5, 7, [5, 5, 9, 9])
    dataset = build_dataset(coco.section())
    assert dataset.image_ids == [5, 2, 9]
    assert [dataset.annotations(i).boxes[:, 0].tolist() for i in range(3)] == [[2, 5], [4], [1, 3]]
    assert dataset.annotations(2).labels.tolist() == [0, 1]


def test_an_image_left_without_boxes_is_replaced_the_same_way_every_time(ten: Any) -> None:
    ten.image("empty", 64, 48)
    ten.box("empty", 7, [1, 1, 0.5, 0.5])
    section = ten.section()
    dataset = build_dataset(section)
    assert dataset.image_info(10)["id"] == "empty"
    drawn = [dataset[SampleKey(10, epoch)][2].image_id for epoch in range(20)]
    assert "empty" not in drawn
    assert len(set(drawn)) > 1
    assert set(drawn) <= set("0123456"), "the replacement has the same aspect group"
    again = build_dataset(section)
    assert [again[SampleKey(10, epoch)][2].image_id for epoch in range(20)] == drawn


def test_empty_images_train_when_asked(coco: Any) -> None:
    coco.image(1, 64, 48)
    image, targets, _ = build_dataset(coco.section(masks=True, filter_empty_gt=False))[0]
    assert targets.boxes.shape == (0, 4)
    assert targets.masks.shape == (0, *image.shape[1:])


@pytest.mark.parametrize("change", [{"epoch": 1}, {"repeat": 1}, {"seed": 1}])
def test_samples_depend_on_seed_epoch_index_and_repeat_only(ten: Any, change: dict[str, int]) -> None:
    dataset = build_dataset(ten.section())

    def drawn(seed: int = 0, epoch: int = 3, repeat: int = 0) -> list[Any]:
        dataset.seed = seed
        samples = [dataset[SampleKey(index=i, epoch=epoch, repeat=repeat)] for i in range(5)]
        return [(meta, image.sum().item(), targets.boxes.tolist()) for image, targets, meta in samples]

    assert drawn() == drawn()
    assert drawn(**change) != drawn()


def test_test_views(ten: Any) -> None:
    dataset = build_dataset(ten.section(train=False), test_mode=True)
    views = dataset[0]
    assert [meta.flip_direction for _, meta in views] == [None, "horizontal"]
    width = views[0][1].input_hw[1]
    assert torch.equal(views[0][0][:, :, :width], views[1][0][:, :, :width].flip(-1))


def test_segmentations_survive_packing() -> None:
    mask = np.zeros((6, 8), np.uint8, order="F")
    mask[1:4, 2:7] = 1
    compressed = coco_mask.encode(mask)
    text = {"size": [6, 8], "counts": compressed["counts"].decode()}
    runs = {"size": [6, 8], "counts": [13, 3, 3, 3, 3, 3, 3, 3, 3, 3, 8]}
    polygons = [[0, 0, 4, 0, 4, 4], [1.5, 1.25, 2, 2, 3, 3, 4, 5]]
    packed = Segmentations([text, None, polygons, runs, [[1, 2, 3, 4]], compressed])
    assert packed[0] == packed[3] == packed[5] == {"size": [6, 8], "counts": compressed["counts"]}
    assert packed[1] is None
    assert [part.tolist() for part in packed[2]] == polygons
    assert packed[4] == []
    assert packed.dropped_parts == 1


def test_strings_hold_any_text() -> None:
    texts = ["", "a/b.png", "straße", "画像.jpg"]
    packed = Strings(texts)
    assert [packed[i] for i in range(len(packed))] == texts


def test_palette_has_a_colour_per_class(ten: Any) -> None:
    dataset = build_dataset(ten.section())
    assert len(dataset.palette) == 2
    assert dataset.palette[0] == CocoDataset.PALETTE[CocoDataset.CLASSES.index("cat")]
    assert len(CocoDataset.CLASSES) == len(set(CocoDataset.CLASSES)) == len(CocoDataset.PALETTE) == 80


def test_repeat_and_concat(ten: Any) -> None:
    section = ten.section()
    twice = build_dataset({"type": "RepeatDataset", "times": 2, "dataset": section})
    assert len(twice) == 20
    assert twice.image_info(13)["id"] == 3
    assert twice.image_ids == [*range(10), *range(10)]
    assert twice.aspect_groups().tolist() == [1] * 7 + [0] * 3 + [1] * 7 + [0] * 3
    joined = build_dataset([section, section])
    assert len(joined) == 20
    assert [joined.image_info(i)["id"] for i in (9, 10)] == [9, 0]
    assert joined[SampleKey(12)][2].image_id == 2
    # the same image, the other time: other random numbers
    metas = [(twice[SampleKey(3, e)][2], twice[SampleKey(13, e)][2]) for e in range(3)]
    assert any(a != b for a, b in metas)


def test_lists_of_files_are_concatenated(ten: Any) -> None:
    section = ten.section()
    files = [section["ann_file"]] * 3
    prefixes = [section["img_prefix"]] * 3
    assert len(build_dataset({**section, "ann_file": files, "img_prefix": prefixes})) == 30


@pytest.mark.parametrize("absolute", [True, False])
def test_data_root_joins_only_relative_paths(ten: Any, absolute: bool) -> None:
    section = ten.section()
    if absolute:
        section["ann_file"] = str(ten.root / section["ann_file"])
        section["img_prefix"] = str(ten.root / section["img_prefix"])
        section["data_root"] = "/nowhere"
    dataset = build_dataset(section)
    assert dataset.ann_file == ten.root / "annotations" / "train.json"
    assert dataset.img_prefix == ten.root / "images"
