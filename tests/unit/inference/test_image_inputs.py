"""Images in every form: arrays, PIL images, files; and what is said of those that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from detector.errors import DatasetError, DetectorError
from detector.inference import detect, inference_detector, init_detector
from detector.inference.images import read_picture, to_bgr
from tests.unit.inference.tiny_models import FASTER, detector, image, write_config

SMALL = image(6, 4)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (SMALL, SMALL),
        (SMALL[..., 0], np.repeat(SMALL[..., :1], 3, axis=2)),
        (SMALL[..., :1], np.repeat(SMALL[..., :1], 3, axis=2)),
        (np.dstack([SMALL, SMALL[..., 0]]), SMALL),
        (SMALL.astype(np.uint16) * 257, SMALL),
        (Image.fromarray(SMALL[..., ::-1]), SMALL),
        (Image.fromarray(SMALL[..., 0]), np.repeat(SMALL[..., :1], 3, axis=2)),
        (Image.fromarray(np.dstack([SMALL[..., ::-1], SMALL[..., 0]])), SMALL),
        (
            Image.fromarray(SMALL[..., 0].astype(np.uint16) * 257),
            np.repeat(SMALL[..., :1], 3, axis=2),
        ),
        (Image.fromarray(SMALL[..., ::-1]).quantize(256), SMALL),
    ],
    ids=["bgr", "grey", "one", "bgra", "uint16", "pil", "pil L", "pil RGBA", "pil 16 bit", "pil palette"],
)
def test_arrays_and_pil_images_become_bgr(given: Any, wanted: np.ndarray) -> None:
    found = to_bgr(given)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, wanted)


def test_pil_images_are_turned_upright() -> None:
    turned = Image.fromarray(SMALL[..., ::-1])
    turned.getexif()[0x0112] = 6
    np.testing.assert_array_equal(to_bgr(turned), np.rot90(SMALL, -1))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_files_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(SMALL[..., ::-1]).save(tmp_path / "a.png", exif=exif)
    turns = {1: 0, 3: 2, 6: -1, 8: 1}[orientation]
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), np.rot90(SMALL, turns))


@pytest.mark.parametrize(
    "pixels",
    [SMALL[..., 0], np.dstack([SMALL, SMALL[..., 0]]), SMALL.astype(np.uint16) * 257],
    ids=["grey", "alpha", "16 bit"],
)
def test_a_file_and_its_array_give_the_same_detections(tmp_path: Path, pixels: np.ndarray) -> None:
    model = detector(tmp_path)
    large = cv2.resize(pixels, (96, 64), interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(tmp_path / "a.png"), large)
    of_file, of_array = detect(model, [tmp_path / "a.png", large])
    torch.testing.assert_close(of_file.boxes, of_array.boxes, rtol=0, atol=0)
    assert len(of_file) == 10


def test_a_black_picture_of_16_bits_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cv2.imwrite(str(tmp_path / "dark.png"), SMALL.astype(np.uint16))
    read_picture(tmp_path / "dark.png")
    assert "upper 8 bits" in caplog.text


def broken(folder: Path, name: str) -> Any:
    """One kind of bad input."""
    jpeg = cv2.imencode(".jpg", image(64, 48))[1].tobytes()
    png = cv2.imencode(".png", image(64, 48))[1].tobytes()
    contents = {
        "empty.jpg": b"",
        "cut.jpg": jpeg[:600],
        "cut.png": png[: len(png) // 2],
        "text.jpg": b"hello",
    }
    contents["clip.mp4"] = b"\0\0\0\x20ftypisom" + bytes(32)
    if name in contents:
        (folder / name).write_bytes(contents[name])
        return folder / name
    return {
        "missing.jpg": folder / "missing.jpg",
        "folder": folder,
        "float": np.zeros((4, 4, 3), np.float32),
        "channels first": np.zeros((3, 40, 40), np.uint8),
        "batch": np.zeros((2, 40, 40, 3), np.uint8),
        "no pixels": np.zeros((0, 4, 3), np.uint8),
        "dark 16 bit": np.full((4, 4), 200, np.uint16),
        "tensor": torch.zeros(3, 4, 4),
        "pil float": Image.fromarray(np.zeros((4, 4), np.float32)),
        "none": None,
    }[name]


KINDS = {
    "missing.jpg": ["missing.jpg", "no such file"],
    "folder": ["found a folder", "open_source"],
    "empty.jpg": ["empty.jpg", "an empty file"],
    "cut.jpg": ["cut.jpg", "ff d8 ff", "cut off"],
    "cut.png": ["cut.png", "89 50 4e 47", "cut off"],
    "text.jpg": ["text.jpg", "5 bytes", "68 65 6c 6c"],
    "clip.mp4": ["clip.mp4", "video-demo"],
    "float": ["float32", "(255 * image).astype('uint8')"],
    "channels first": ["(3, 40, 40)", "transpose(1, 2, 0)"],
    "batch": ["(2, 40, 40, 3)", "as a list"],
    "no pixels": ["(0, 4, 3)", "at least one pixel"],
    "dark 16 bit": ["at most 200", "astype('uint8')"],
    "tensor": ["torch.Tensor", "permute(1, 2, 0)"],
    "pil float": ["mode 'F'", "mode 'L'"],
    "none": ["builtins.NoneType", "expected a path"],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return detector(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("name", KINDS)
def test_bad_images_are_refused_in_words(model: Any, tmp_path: Path, name: str) -> None:
    given = broken(tmp_path, name)
    with pytest.raises(DatasetError) as caught:
        inference_detector(model, given)
    assert [part for part in KINDS[name] if part not in str(caught.value)] == []
    assert "expected" in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"config": 3}, ["config is a int", "a path, a name or a Config"]),
        ({"config": "mask_rcn"}, ["mask_rcn", "mask_rcnn"]),
        ({"device": "gpu"}, ["'gpu'", "cuda:<number>"]),
        ({"precision": "int8"}, ["'int8'", "fp16"]),
        ({"precision": "fp16"}, ["'fp16'", "bf16"]),
        ({"compile": "nothing"}, ["'nothing'", "inductor"]),
        ({"checkpoint": "nowhere.pth"}, ["nowhere.pth"]),
        ({"cfg_options": {"model.backbone.deep": 3}}, ["deep", "depth"]),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, dict) else "",
)
def test_bad_options_are_refused_in_words(tmp_path: Path, options: dict[str, Any], named: list[str]) -> None:
    given = {"config": write_config(tmp_path, FASTER), "device": "cpu", **options}
    with pytest.raises(DetectorError) as caught:
        init_detector(**given)
    assert [part for part in named if part not in str(caught.value)] == []
