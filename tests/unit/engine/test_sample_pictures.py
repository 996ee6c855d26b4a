from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detector.config.load import config_from_text
from detector.engine import sample_pictures
from detector.engine.settings import read_plan
from detector.errors import ConfigError


class OneImage:
    """A data set whose only image is not there."""

    img_prefix = "nowhere"
    class_names = ("a",)

    def __len__(self) -> int:
        return 1

    def image_info(self, index: int) -> dict[str, Any]:
        return {"id": 1, "file_name": "x.png"}


def test_pictures_that_cannot_be_drawn_are_told_and_not_marked_whole(tmp_path: Path) -> None:
    said: list[str] = []
    data: Any = OneImage()
    sample_pictures.draw_evaluation(data, {}, tmp_path, "epoch_1", 2, said.append)
    assert "val_samples/epoch_1: the pictures were not drawn: DatasetError" in said[0]
    assert not (tmp_path / "val_samples" / "epoch_1" / "done").exists()


@pytest.mark.parametrize(("given", "expected"), [("", 0), ("samples=3", 3)])
def test_the_config_asks_for_pictures(given: str, expected: int) -> None:
    text = f"runner = dict(type='EpochBasedRunner', max_epochs=1)\nevaluation = dict(interval=1, {given})\n"
    plan = read_plan(config_from_text(text, name="x.py").data)
    assert plan.evaluation is not None
    assert plan.evaluation.samples == expected


def test_a_wrong_number_of_pictures_is_refused() -> None:
    text = "runner = dict(type='EpochBasedRunner', max_epochs=1)\nevaluation = dict(samples='many')\n"
    with pytest.raises(ConfigError, match=r"evaluation\.samples"):
        read_plan(config_from_text(text, name="x.py").data)
