"""Pipelines from configs: names, arguments, views, images that cannot be read, masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import pytest

from detector.data.transforms import Annotations, Sample, UnreadableImageError, build_pipeline
from detector.data.transforms.loading import draw_masks, read_image
from detector.errors import ConfigError, DatasetError


@pytest.mark.parametrize(
    ("steps", "parts"),
    [
        ([{"type": "Resiz"}], ["pipeline.0.type", "'Resiz'", "nearest: 'Resize'"]),
        (
            [{"type": "LoadImageFromFile"}, {"type": "Resize", "img_scales": (3, 3)}],
            ["pipeline.1.img_scales", "nearest: 'img_scale'", "keep_ratio"],
        ),
        ([{"type": "Normalize", "mean": [0, 0, 0]}], ["pipeline.0", "needs std"]),
        (
            [{"type": "MultiScaleFlipAug", "img_scale": (3, 3), "transforms": [{"type": "Pads"}]}],
            ["pipeline.0.transforms.0.type", "nearest: 'Pad'"],
        ),
        ([{"type": "Pad"}], ["pipeline.0: Pad", "exactly one"]),
        ([{"type": "Resize", "img_scale": "big"}], ["pipeline.0", "(width, height)"]),
        ([{"type": "RandomFlip", "flip_ratio": 1.5}], ["pipeline.0", "[0, 1]"]),
        ([{"type": "Collect", "keys": ["img", "gt_mask"]}], ["pipeline.0", "nearest: 'gt_masks'"]),
        (
            [{"type": "DefaultFormatBundle", "pad_val": {"img": 255}}],
            ["pipeline.0", "'img': 255", "'seg': 255"],
        ),
        ([{"type": "DefaultFormatBundle", "pad_val": {"seg": 0}}], ["pipeline.0", "'seg': 0"]),
        ([{"type": "DefaultFormatBundle", "pad_val": {"image": 0}}], ["pipeline.0", "'image'"]),
        (["Resize"], ["pipeline.0", "dict(type="]),
    ],
)
def test_wrong_pipelines_say_where_and_what(steps: list[Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        build_pipeline(steps)
    assert [p for p in parts if p not in str(error.value)] == []


def test_views_come_scale_by_scale_and_unflipped_first(norm: dict[str, Any]) -> None:
    inner = [{"type": "Resize"}, {"type": "RandomFlip"}, {"type": "Normalize", **norm}]
    pipeline = build_pipeline(
        [
            {"type": "LoadImageFromFile"},
            {
                "type": "MultiScaleFlipAug",
                "img_scale": [(20, 10), (40, 20)],
                "flip": True,
                "flip_direction": ["horizontal", "vertical"],
                "transforms": inner,
            },
        ]
    )
    views = pipeline(Sample(image=np.zeros((10, 20, 3), np.uint8)), np.random.default_rng(0))
    found = [(v.input_hw, v.flip_direction) for v in views]
    one, two = (10, 20), (20, 40)
    assert found == [(size, way) for size in (one, two) for way in (None, "horizontal", "vertical")]


def test_scale_factor_views() -> None:
    steps = [{"type": "MultiScaleFlipAug", "scale_factor": 2.0, "transforms": [{"type": "Resize"}]}]
    (view,) = build_pipeline(steps)(Sample(image=np.zeros((10, 20, 3), np.uint8)), np.random.default_rng(0))
    assert view.input_hw == (20, 40)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0 cut off"])
def test_unreadable_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"bad\.jpg") as error:
        read_image(str(path))
    assert error.value.path == str(path)


def test_exif_orientation_turns_the_image(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(path, exif=exif)
    assert read_image(str(path)).shape == (20, 10, 3)
    assert read_image(str(path), flag="color_ignore_orientation").shape == (10, 20, 3)


def test_channel_order(tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    cv2.imwrite(str(path), np.full((4, 4, 3), (0, 0, 255), np.uint8))
    assert read_image(str(path))[0, 0].tolist() == [0, 0, 255]
    assert read_image(str(path), rgb=True)[0, 0].tolist() == [255, 0, 0]


def test_masks_of_every_kind_agree() -> None:
    wanted = np.zeros((6, 8), np.uint8)
    wanted[1:4, 2:7] = 1
    polygon = [np.array([2, 1, 7, 1, 7, 4, 2, 4], np.float64)]
    rle = coco_mask.encode(np.asfortranarray(wanted))
    halves = [np.array(p, np.float64) for p in ([2, 1, 5, 1, 5, 4, 2, 4], [5, 1, 7, 1, 7, 4, 5, 4])]
    drawn = draw_masks([polygon, rle, halves], (6, 8), 3, "x")
    np.testing.assert_array_equal(drawn, [wanted] * 3)


def test_missing_segmentation_is_named() -> None:
    with pytest.raises(DatasetError, match=r"a\.png.*object 1 of 1 has no segmentation"):
        draw_masks([None], (4, 4), 1, "a.png")


def test_masks_of_another_size_than_the_image_are_refused() -> None:
    annotations = Annotations(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), image_hw=(9, 9))
    sample = Sample(filename="a.png", image=np.zeros((4, 6, 3), np.uint8), annotations=annotations)
    steps = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_mask": True}]
    with pytest.raises(DatasetError, match=r"6x4.*9x9"):
        build_pipeline(steps)(sample, np.random.default_rng(0))


def test_the_default_padding_may_be_written_out() -> None:
    written_out = {"type": "DefaultFormatBundle", "pad_val": {"img": 0, "masks": 0, "seg": 255}}
    assert build_pipeline([written_out]) is not None
