"""What a user gets told when the data is wrong: one paragraph with where, what, expected and what to do."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from detector.data.datasets import SampleKey, build_dataset
from detector.data.loader import build_train_loader
from detector.errors import ConfigError, DatasetError, DetectorError


def says(error: DetectorError, *parts: str) -> bool:
    text = str(error)
    assert "\n" not in text
    assert [part for part in parts if part not in text] == [], text
    return True


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["train.json", "does not exist", "correct ann_file"]),
        ("{ not json", ["train.json", "is not JSON", "make it again"]),
        ("[]", ["holds a list", "'images'", "result file"]),
        ('{"images": [], "annotations": []}', ["no list 'categories'", "found: 'images', 'annotations'"]),
        ('{"images": [], "annotations": [], "categories": []}', ["split is empty", "At least one image"]),
    ],
)
def test_broken_annotation_files(ten: Any, content: str | None, parts: list[str]) -> None:
    section = ten.section()
    path = ten.root / "annotations" / "train.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(DatasetError) as error:
        build_dataset(section)
    assert says(error.value, str(path), *parts)


def test_missing_folder_is_named(ten: Any) -> None:
    section = ten.section(data_root=str(ten.root / "gone"))
    with pytest.raises(DatasetError) as error:
        build_dataset(section)
    assert says(error.value, f"neither does the folder {ten.root / 'gone'}")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda c: c["annotations"][0].pop("bbox"), ["entry 1 of 'annotations' has no 'bbox'"]),
        (lambda c: c["annotations"][2].update(bbox=[1, 2, 3]), ["annotation 3", "[1, 2, 3]", "four numbers"]),
        (lambda c: c["annotations"][1].update(bbox=[1, 2, 3, 1e999]), ["annotation 2", "finite"]),
        (lambda c: c["images"][4].pop("height"), ["entry 4 of 'images' has no 'height'"]),
        (lambda c: c["images"][4].update(id=3), ["1 of 10 images share their id"]),
        (
            lambda c: c["images"][4].update(height=None),
            ["entry 4 of 'images' has height None", "whole number"],
        ),
        (lambda c: c["images"][4].update(width=0), ["entry 4 of 'images' has width 0", "at least 1"]),
        (lambda c: c["images"][4].update(id=[4]), ["of 'images' has id [4]", "whole number or a text"]),
        (lambda c: c["images"][4].update(id=4.5), ["of 'images' has id 4.5"]),
        (lambda c: c["annotations"][1].update(image_id={}), ["entry 2 of 'annotations' has image_id {}"]),
        (lambda c: c["annotations"][1].update(category_id="7"), ["entry 2", "category_id '7'"]),
        (lambda c: c["annotations"][1].update(category_id=None), ["entry 2", "category_id None"]),
        (lambda c: c["annotations"][1].update(area=None), ["entry 2", "area None", "a number"]),
        (lambda c: c["categories"][1].update(id="x"), ["of 'categories' has id 'x'"]),
        (lambda c: c["categories"][1].update(name="cat"), ["'cat' twice"]),
    ],
)
def test_broken_entries(ten: Any, change: Any, parts: list[str]) -> None:
    section = ten.section()
    change(ten.content)
    (ten.root / "annotations" / "train.json").write_text(json.dumps(ten.content))
    with pytest.raises(DatasetError) as error:
        build_dataset(section)
    assert says(error.value, *parts)


def test_unknown_class_gives_the_nearest_names(ten: Any) -> None:
    with pytest.raises(DatasetError) as error:
        build_dataset(ten.section(classes=("cats", "dog")))
    assert says(error.value, "'cats' (nearest: 'cat')", "classes of the config", "'cat', 'dog'")


def test_own_classes_of_the_type_that_the_file_lacks(ten: Any) -> None:
    with pytest.raises(DatasetError) as error:
        build_dataset(ten.section(classes=None))
    assert says(error.value, "'person'", "and 75 more", "config gives none", "Set classes=(...)")


@pytest.mark.parametrize(
    ("more", "kind", "parts"),
    [
        ({"type": "CocoDatset"}, ConfigError, ["dataset.type", "nearest: 'CocoDataset'"]),
        ({"img_prefx": "x"}, ConfigError, ["dataset.img_prefx", "nearest: 'img_prefix'"]),
        ({"corrupt": "ignore"}, ConfigError, ["dataset.corrupt", "'error', 'skip'"]),
        ({"classes": "no/such.txt"}, DatasetError, ["dataset.classes", "no such file"]),
        ({"classes": ()}, ConfigError, ["dataset.classes", "at least one"]),
        ({"classes": ("cat", "cat")}, ConfigError, ["'cat' more than once"]),
        ({"proposal_file": "p.pkl"}, DatasetError, ["p.pkl", "cannot be opened", "Correct proposal_file"]),
    ],
)
def test_wrong_sections(ten: Any, more: dict[str, Any], kind: type[DetectorError], parts: list[str]) -> None:
    with pytest.raises(kind) as error:
        build_dataset(ten.section(**more))
    assert says(error.value, *parts)


def test_nothing_left_to_train_on(coco: Any) -> None:
    coco.image(1, 64, 48)
    coco.image(2, 64, 20)
    with pytest.raises(DatasetError) as error:
        build_dataset(coco.section())
    assert says(error.value, "no image is left", "Of 2, 1 have a side below 32", "filter_empty_gt=False")


def test_missing_images_are_counted_and_the_first_named(ten: Any) -> None:
    section = ten.section()
    for i in (1, 3, 4, 8):
        (ten.root / "images" / f"{i}.png").unlink()
    with pytest.raises(DatasetError) as error:
        build_train_loader(build_dataset(section), samples_per_gpu=2, workers_per_gpu=0, seed=0)
    assert says(error.value, "lacks 4 of 10 images", "1.png, 3.png, 4.png, ...", "corrupt='skip'")


def test_missing_image_folder(ten: Any) -> None:
    dataset = build_dataset(ten.section(img_prefix="photos", corrupt="skip"))
    with pytest.raises(DatasetError) as error:
        dataset.check_images()
    assert says(error.value, "photos", "does not exist", "10 images")


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_stops_with_its_name(ten: Any, workers: int) -> None:
    section = ten.section()
    (ten.root / "images" / "5.png").write_bytes(b"no image")
    loader = build_train_loader(build_dataset(section), samples_per_gpu=2, workers_per_gpu=workers, seed=0)
    with pytest.raises(DatasetError) as error:
        list(loader)
    loader.close()
    assert says(error.value, "5.png", "8 bytes", "not a readable image", "corrupt='skip'")


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_passes_over_it_and_names_it_once(
    ten: Any, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    section = ten.section(corrupt="skip")
    (ten.root / "images" / "5.png").write_bytes(b"no image")
    loader = build_train_loader(build_dataset(section), samples_per_gpu=2, workers_per_gpu=workers, seed=0)
    with caplog.at_level(logging.WARNING):
        seen = [meta.image_id for _ in range(3) for batch in loader for meta in batch.metas]
    loader.close()
    assert 5 not in seen
    assert len(seen) == 3 * 12
    assert sum("5.png" in record.getMessage() for record in caplog.records) == 1


def test_all_images_unreadable_ends(ten: Any) -> None:
    dataset = build_dataset(ten.section(corrupt="skip"))
    for i in range(10):
        (ten.root / "images" / f"{i}.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="100 images in a row"):
        dataset.fetch(SampleKey(0))
