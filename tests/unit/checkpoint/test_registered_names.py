from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from detector.checkpoint import registered
from detector.checkpoint.files import load_checkpoint, save_checkpoint
from detector.errors import CheckpointError, ConfigError
from detector.inference import init_detector
from detector.inference import model as inference
from tests.unit.inference.tiny_models import write_model

KNOWN = EntryPoint("models", "tests.unit.checkpoint.test_registered_names:answer", registered.GROUP)


def answer(name: str) -> Path:
    return Path("weights") / name.rpartition("@")[2]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("models:/mask_rcnn@best", True), ("models:/mask_rcnn/3", True), ("https://host/a.pth", False),
        ("torchvision://resnet50", False), ("runs/model.pth", False), ("C:/model.pth", False), (None, False),
        (Path("models:/x"), False), ({"model": 1}, False),
    ],
)  # fmt: skip
def test_which_names_are_registered_ones(name: object, expected: bool) -> None:
    assert registered.is_registered(name) is expected


def test_the_one_who_knows_the_scheme_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registered, "_entries", lambda: (KNOWN,))
    monkeypatch.setattr(EntryPoint, "load", lambda self: answer)
    assert registered.registered("models:/mask_rcnn@best") == Path("weights/best")


@pytest.mark.parametrize(
    ("known", "said"), [((), r"\(none\)"), ((KNOWN,), "models:/")], ids=["none", "others"]
)
def test_an_unknown_scheme_is_told(monkeypatch: pytest.MonkeyPatch, known: tuple, said: str) -> None:
    monkeypatch.setattr(registered, "_entries", lambda: known)
    with pytest.raises(CheckpointError, match=f"names that start with hub:/; expected one of {said}"):
        registered.registered("hub:/x")


def test_a_model_without_its_config_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"holds no config in meta\['config'\]"):
        inference._config_of("models:/a@best", None, None, whole=True)


def test_init_detector_takes_config_and_weights_from_a_registered_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, path = write_model(tmp_path)
    made = init_detector(str(config), str(path), device="cpu")
    file = load_checkpoint(path)
    save_checkpoint(path, {"meta": {**file.meta, "config": made.cfg.text()}, "state_dict": file.state_dict})
    monkeypatch.setattr(inference, "registered", lambda name: path)
    for found in (init_detector("models:/t@best", device="cpu"), init_detector(config, "models:/t/1", "cpu")):
        assert found.CLASSES == made.CLASSES
        assert found.cfg.data["model"] == made.cfg.data["model"]
        assert all(
            a.equal(b) for a, b in zip(found.state_dict().values(), made.state_dict().values(), strict=True)
        )
