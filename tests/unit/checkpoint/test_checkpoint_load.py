from collections import OrderedDict

import pytest
import torch
from torch import nn

from detector.checkpoint.load import load_state
from detector.checkpoint.upgrades import upgrade
from detector.errors import CheckpointError


def versioned(keys, **versions):
    state = OrderedDict((key, torch.zeros(1)) for key in keys)
    state._metadata = OrderedDict((name, {"version": v}) for name, v in versions.items())
    return state


@pytest.mark.parametrize(
    ("state", "wanted", "renamed"),
    [
        (versioned(["module.a", "module.b"]), ["a", "b"], {"module.a": "a", "module.b": "b"}),
        (versioned(["module.a", "b"]), ["a", "b"], {}),
        (
            versioned(["layer.conv2_offset.weight", "layer.conv2_offset.bias"]),
            ["layer.conv2.conv_offset.weight", "layer.conv2.conv_offset.bias"],
            {
                "layer.conv2_offset.weight": "layer.conv2.conv_offset.weight",
                "layer.conv2_offset.bias": "layer.conv2.conv_offset.bias",
            },
        ),
        (versioned(["conv2_offset.bias"], conv2=2), ["conv2.conv_offset.bias"], {}),
        (
            versioned(["bbox_head.t.decoder.norm.bias", "bbox_head.t.0.self_attn.w"], bbox_head=1),
            ["bbox_head.t.decoder.post_norm.bias", "bbox_head.t.0.attentions.0.w"],
            {
                "bbox_head.t.decoder.norm.bias": "bbox_head.t.decoder.post_norm.bias",
                "bbox_head.t.0.self_attn.w": "bbox_head.t.0.attentions.0.w",
            },
        ),
        (
            versioned(["bbox_head.fcos_cls.weight", "bbox_head.fcos_centerness.bias"]),
            ["bbox_head.conv_cls.weight", "bbox_head.conv_centerness.bias"],
            {
                "bbox_head.fcos_cls.weight": "bbox_head.conv_cls.weight",
                "bbox_head.fcos_centerness.bias": "bbox_head.conv_centerness.bias",
            },
        ),
        (versioned(["bbox_head.vfnet_cls.bias"], bbox_head=1), ["bbox_head.vfnet_cls.bias"], {}),
    ],
    ids=["module", "half module", "dcn 1", "dcn 2", "detr 1", "fcos", "vfnet"],
)
def test_renames(state, wanted, renamed):
    result, found = upgrade(state, wanted)
    assert found == renamed
    assert list(result) == [renamed.get(k, k) for k in state]


class Model(nn.Module):
    def __init__(self, classes=3, backbone=2, mask=False):
        super().__init__()
        self.backbone = nn.Sequential(*[nn.Linear(2, 2) for _ in range(backbone)])
        self.bn = nn.BatchNorm1d(2)
        self.fc_cls = nn.Linear(2, classes + 1)
        self.register_buffer("table", torch.zeros(1), persistent=False)
        if mask:
            self.mask_head = nn.Linear(2, 2)


def test_equal_models_match_and_extras_are_ignored():
    state = Model().state_dict()
    state["ema_fc_cls_weight"] = torch.zeros(1)
    state["table"] = torch.zeros(1)
    del state["bn.num_batches_tracked"]
    target = Model()
    report = load_state(target, state)
    assert report.complete
    assert set(report.ignored) == {"ema_fc_cls_weight", "table"}
    assert len(report.matched) == 10
    torch.testing.assert_close(target.fc_cls.weight, state["fc_cls.weight"])
    assert "10 matched" in report.summary()


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        (Model(classes=5), "number of classes: the file's fc_cls.weight has 5, the model's 3"),
        (Model(backbone=6), "another backbone"),
        (Model(mask=True), "Mask R-CNN against Faster R-CNN"),
        (nn.Linear(2, 2), "another model altogether"),
    ],
    ids=["classes", "backbone", "mask", "other"],
)
def test_differences_raise_with_the_likely_cause_and_change_nothing(source, cause):
    target = Model()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=cause):
        load_state(target, source.state_dict())
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


def test_the_error_lists_the_first_keys_of_each_kind():
    with pytest.raises(CheckpointError) as error:
        load_state(Model(classes=2, backbone=30), Model(mask=True).state_dict())
    text = str(error.value)
    assert "missing in the file (56)" in text
    assert "and 46 more" in text
    assert "not in the model (2): mask_head.weight, mask_head.bias" in text
    assert "fc_cls.weight [4, 2] in the file, [3, 2] in the model" in text


def test_lenient_loads_what_fits():
    source, target = Model(classes=5), Model()
    report = load_state(target, source.state_dict(), strict=False)
    assert set(report.mismatched) == {"fc_cls.weight", "fc_cls.bias"}
    torch.testing.assert_close(target.backbone[0].weight, source.backbone[0].weight)
