"""Where first weights come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detector.engine.initial_weights import Pretrained, load_pretrained, load_weights, requested
from detector.errors import CheckpointError

FROM_B = {"type": "Pretrained", "checkpoint": "b"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("DETECTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "cache" / "weights").mkdir(parents=True)
    return tmp_path / "cache" / "weights"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 2)
        self.head = nn.Linear(2, 1)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            {"type": "X", "pretrained": "torchvision://resnet50"},
            [Pretrained("backbone", "torchvision://resnet50")],
        ),
        ({"type": "X", "pretrained": None, "backbone": {"type": "R", "init_cfg": None}}, []),
        (
            {
                "type": "X",
                "backbone": {"type": "R", "init_cfg": {"type": "Pretrained", "checkpoint": "a.pth"}},
            },
            [Pretrained("backbone", "a.pth")],
        ),
        (
            {
                "type": "X",
                "backbone": {
                    "type": "R",
                    "init_cfg": [
                        {"type": "Kaiming"},
                        {"type": "Pretrained", "checkpoint": "a.pth", "prefix": "backbone."},
                    ],
                },
            },
            [Pretrained("backbone", "a.pth", "backbone.")],
        ),
        ({"type": "X", "init_cfg": {"type": "Pretrained", "checkpoint": "a.pth"}}, [Pretrained("", "a.pth")]),
        (
            {
                "type": "X",
                "neck": {
                    "type": "N",
                    "rfp": {"type": "R", "init_cfg": {"type": "Pretrained", "checkpoint": "b"}},
                },
            },
            [Pretrained("neck.rfp", "b")],
        ),
    ],
)
def test_requests_in_a_model_config(model: dict[str, Any], expected: list[Pretrained]) -> None:
    assert requested(model) == expected


def test_what_is_not_there_says_how_to_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTOR_OFFLINE", "1")
    with pytest.raises(CheckpointError, match=r"needs the file resnet50-0676ba61\.pth.*init_cfg=None"):
        load_weights(Net(), {"type": "X", "pretrained": "torchvision://resnet50"}, load_from=None)


def test_a_pretrained_file_in_the_cache_is_used(cache: Path) -> None:
    torch.save({"weight": torch.ones(2, 2)}, cache / "x.pth")
    net = Net()
    init = {"type": "Pretrained", "checkpoint": "https://host/models/x.pth"}
    lines = load_weights(net, {"type": "X", "backbone": {"type": "R", "init_cfg": init}}, load_from=None)
    assert lines == ["https://host/models/x.pth: 1 tensors into model.backbone"]
    assert torch.equal(net.backbone.weight, torch.ones(2, 2))


def test_only_keys_below_the_prefix_go_into_the_module(tmp_path: Path) -> None:
    torch.save(
        {"state_dict": {"backbone.weight": torch.ones(2, 2), "fc.weight": torch.ones(9)}}, tmp_path / "a.pth"
    )
    net = Net()
    report = load_pretrained(net, Pretrained("backbone", str(tmp_path / "a.pth"), "backbone"))
    assert report.matched == ("weight",)
    assert torch.equal(net.backbone.weight, torch.ones(2, 2))


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    torch.save({"features.0": torch.ones(3)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="none of its 1 tensors"):
        load_pretrained(Net(), Pretrained("backbone", str(tmp_path / "a.pth")))


def test_load_from_makes_a_complete_backbone_unnecessary(tmp_path: Path) -> None:
    source = Net()
    torch.save(
        {"state_dict": {**source.state_dict(), "head.weight": torch.ones(7, 2)}}, tmp_path / "full.pth"
    )
    net = Net()
    lines = load_weights(
        net, {"type": "X", "pretrained": "torchvision://resnet50"}, load_from=str(tmp_path / "full.pth")
    )
    assert torch.equal(net.backbone.weight, source.backbone.weight)
    assert [line.split(": ", 1)[1] for line in lines] == [
        "3 matched, 1 of another shape keys",
        "of another shape, so they start from random values, as heads for other classes do: "
        "head.weight ([7, 2] in the file, [1, 2] here)",
    ]


def test_load_from_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"features.0": torch.ones(3)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"none of its 1 tensors.*features\.0.*backbone\.weight"):
        load_weights(Net(), {"type": "X"}, load_from=str(tmp_path / "a.pth"))


def test_what_load_from_lacks_and_has_beyond_is_named(tmp_path: Path) -> None:
    torch.save({"backbone.weight": torch.ones(2, 2), "extra": torch.ones(1)}, tmp_path / "a.pth")
    text = "\n".join(load_weights(Net(), {"type": "X"}, load_from=str(tmp_path / "a.pth")))
    assert "not in the file, so they start from random values: backbone.bias, head.weight, head.bias" in text
    assert "in the file, but not in the model: extra" in text


def test_load_from_without_a_network_says_what_to_place_where(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTOR_OFFLINE", "1")
    url = "https://host/v2.0/mask_rcnn_r50_fpn_1x_coco_20200205-d4b0c5d6.pth"
    with pytest.raises(CheckpointError) as error:
        load_weights(Net(), {"type": "X"}, load_from=url)
    place = cache / "mask_rcnn_r50_fpn_1x_coco_20200205-d4b0c5d6.pth"
    assert f"Fetch {url} (its sha256 starts with d4b0c5d6) and place it at {place}," in str(error.value)
    assert str(error.value).startswith("load_from: ")
    assert "--cfg-options load_from=None" in str(error.value)
