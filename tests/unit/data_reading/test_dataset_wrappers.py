"""Data sets of data sets: balanced classes and mixed images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from detector.data.datasets import SampleKey, build_dataset
from detector.data.datasets.balanced import repeat_factors
from detector.data.loader import build_train_loader
from detector.errors import ConfigError, DatasetError


@pytest.fixture
def skewed(coco: Any) -> Any:
    """Eight images with a cat; the dog (second label) is in the last two of them only."""
    for i in range(8):
        coco.image(i, 64, 48)
        coco.box(i, 7, [4.0, 5.0, 20.0, 10.0])
        if i > 5:
            coco.box(i, 3, [10.0, 20.0, 8.0, 12.0])
    return coco


def balanced(folder: Any, threshold: float, **more: Any) -> Any:
    section = {"type": "ClassBalancedDataset", "oversample_thr": threshold, "dataset": folder.section()}
    return build_dataset({**section, **more})


def test_repeat_factors_by_hand(skewed: Any) -> None:
    # cat in 8/8 of the images: max(1, sqrt(0.9 / 1)) = 1; dog in 2/8: sqrt(0.9 / 0.25) = 1.897
    factors = repeat_factors(build_dataset(skewed.section()), 0.9)
    assert factors.tolist() == pytest.approx([1.0] * 6 + [3.6**0.5] * 2)


def test_images_with_rare_classes_come_more_often(skewed: Any) -> None:
    dataset = balanced(skewed, 0.9)
    assert dataset.image_ids == [0, 1, 2, 3, 4, 5, 6, 6, 7, 7]
    assert dataset.aspect_groups().tolist() == [1] * 10
    assert dataset[SampleKey(8)][2].image_id == 7
    assert balanced(skewed, 0.2).image_ids == list(range(8))


def test_empty_images_are_a_class_when_asked(skewed: Any) -> None:
    skewed.image(8, 64, 48)
    section = {**skewed.section(filter_empty_gt=False)}
    base = {"type": "ClassBalancedDataset", "oversample_thr": 0.9, "dataset": section}
    assert build_dataset(base).image_ids.count(8) == 1
    # in 1/9 of the images: sqrt(0.9 * 9) = 2.8
    assert build_dataset({**base, "filter_empty_gt": False}).image_ids.count(8) == 3


def test_repetitions_draw_other_numbers(skewed: Any) -> None:
    dataset = balanced(skewed, 0.9)
    pairs = [(dataset[SampleKey(6, e)][2], dataset[SampleKey(7, e)][2]) for e in range(4)]
    assert {m.image_id for pair in pairs for m in pair} == {6}
    assert any(a != b for a, b in pairs)


@pytest.mark.parametrize("threshold", [0, -1, 2])
def test_thresholds_are_fractions(skewed: Any, threshold: float) -> None:
    with pytest.raises(ConfigError, match="oversample_thr"):
        balanced(skewed, threshold)


MIX = [
    {"type": "Mosaic", "img_scale": (48, 64), "pad_val": 114.0},
    {"type": "RandomAffine", "scaling_ratio_range": (0.5, 1.5), "border": (-24, -32)},
    {"type": "MixUp", "img_scale": (48, 64), "ratio_range": (0.8, 1.6)},
    {"type": "YOLOXHSVRandomAug"},
    {"type": "RandomFlip", "flip_ratio": 0.5},
    {"type": "Resize", "img_scale": (64, 64), "keep_ratio": True},
    {"type": "Pad", "pad_to_square": True, "pad_val": {"img": (114.0, 114.0, 114.0)}},
    {"type": "FilterAnnotations", "min_gt_bbox_wh": (1, 1), "keep_empty": False},
    {"type": "DefaultFormatBundle"},
    {"type": "Collect", "keys": ["img", "gt_bboxes", "gt_labels"]},
]


LOAD = {"type": "LoadAnnotations", "with_bbox": True}


def mixed(folder: Any, steps: Any = MIX, inner: Any = (LOAD,), **more: Any) -> Any:
    section = folder.section(filter_empty_gt=False)
    section["pipeline"] = [{"type": "LoadImageFromFile"}, *inner]
    return build_dataset({"type": "MultiImageMixDataset", "dataset": section, "pipeline": steps, **more})


def test_mixed_samples_are_well_formed(ten: Any) -> None:
    dataset = mixed(ten)
    for epoch in range(3):
        for i in range(10):
            image, targets, meta = dataset[SampleKey(i, epoch)]
            assert tuple(image.shape) == (3, 64, 64)
            assert meta.input_hw == (48, 64)
            assert len(targets.boxes) == len(targets.labels)
            assert (targets.boxes >= 0).all()
            assert (targets.boxes[:, 2] <= 64).all()
            assert (targets.boxes[:, 3] <= 48).all()
            assert (targets.boxes[:, 2:] - targets.boxes[:, :2] > 1).all()


def test_the_same_key_gives_the_same_mixture(ten: Any) -> None:
    one, two = mixed(ten), mixed(ten)
    first, second = one[SampleKey(3, 1)], two[SampleKey(3, 1)]
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1].boxes, second[1].boxes)
    assert not torch.equal(first[0], one[SampleKey(3, 2)][0])


@pytest.mark.parametrize("workers", [0, 2])
def test_steps_are_left_out_from_an_epoch_on_in_every_worker(ten: Any, workers: int) -> None:
    dataset = mixed(ten)
    dataset.update_skip_type_keys(["Mosaic", "RandomAffine", "MixUp"], from_epoch=1)
    loader = build_train_loader(dataset, samples_per_gpu=1, workers_per_gpu=workers, seed=0)
    shares = []
    for _ in range(2):
        batches = list(loader)
        shares.append(np.mean([len(batch.targets[0].boxes) != 2 for batch in batches]))
    loader.close()
    assert shares[0] > 0.3, "mosaics hold the objects of several images"
    assert shares[1] == 0, "without mixing an image has its own two objects"


def test_skipping_is_by_epoch_and_replaces(ten: Any) -> None:
    dataset = mixed(ten, skip_type_keys=["MixUp"])
    dataset.update_skip_type_keys(["Mosaic"], from_epoch=5)
    assert dataset.skipped_in(4) == {"MixUp"}
    assert dataset.skipped_in(5) == dataset.skipped_in(9) == {"Mosaic"}
    dataset.update_skip_type_keys([])
    assert dataset.skipped_in(9) == set()


def test_an_unknown_step_to_skip_is_an_error(ten: Any) -> None:
    with pytest.raises(ConfigError, match=r"'Mosaics'.*nearest: 'Mosaic'"):
        mixed(ten, skip_type_keys=["Mosaics"])


WIDE_ONLY = [
    {"type": "FilterAnnotations", "min_gt_bbox_wh": (15, 5)},
    {"type": "Collect", "keys": ["img", "gt_bboxes", "gt_labels"]},
]


def test_a_dropped_sample_is_replaced(ten: Any) -> None:
    ten.content["annotations"][0]["bbox"] = [4, 5, 10, 10]
    dataset = mixed(ten, WIDE_ONLY)
    drawn = {dataset[SampleKey(0, epoch)][2].image_id for epoch in range(10)}
    assert 0 not in drawn
    assert len(drawn) > 2


def test_a_pipeline_that_drops_everything_ends(ten: Any) -> None:
    for annotation in ten.content["annotations"]:
        annotation["bbox"] = [4, 5, 10, 10]
    with pytest.raises(DatasetError, match="100 images in a row were dropped"):
        mixed(ten, WIDE_ONLY)[SampleKey(0)]


def test_mixing_steps_need_the_wrapper(ten: Any) -> None:
    section = ten.section()
    section["pipeline"].insert(2, {"type": "Mosaic"})
    with pytest.raises(ConfigError, match="MultiImageMixDataset"):
        build_dataset(section)[0]


def test_mixing_is_for_training(ten: Any) -> None:
    inner = ten.section(train=False)
    with pytest.raises(ConfigError, match="mixes training images"):
        build_dataset({"type": "MultiImageMixDataset", "dataset": inner, "pipeline": []}, test_mode=True)


def test_copy_paste_keeps_masks_and_boxes_together(ten: Any) -> None:
    steps = [
        {"type": "CopyPaste", "max_num_pasted": 100},
        {"type": "Collect", "keys": ["img", "gt_bboxes", "gt_labels", "gt_masks"]},
    ]
    resize = {"type": "Resize", "img_scale": (64, 64), "keep_ratio": False}
    dataset = mixed(ten, steps, ({**LOAD, "with_mask": True}, resize))
    found = [dataset[SampleKey(i)][1] for i in range(10)]
    assert max(len(targets.boxes) for targets in found) > 2
    assert not [t for t in found if not len(t.boxes) == len(t.labels) == len(t.masks)]


def test_copy_paste_needs_one_size(ten: Any) -> None:
    dataset = mixed(ten, [{"type": "CopyPaste"}], ({**LOAD, "with_mask": True},))
    with pytest.raises(ConfigError, match="need one size"):
        [dataset[SampleKey(0, epoch)] for epoch in range(20)]
