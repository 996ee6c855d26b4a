import copy

import pytest
from torch import nn

from detector.build import Builder, build_model
from detector.config.mmdet_v2 import normalise_model, written_path
from detector.errors import ConfigError
from detector.structures.specs import NmsSpec

RESNET = {"type": "ResNet", "depth": 18, "num_stages": 1, "out_indices": (0,)}

EXTRACTOR = {"type": "SingleRoIExtractor", "out_channels": 16, "featmap_strides": [4]}
LOSS = {"type": "CrossEntropyLoss"}
BOX_HEAD = {
    "type": "Shared2FCBBoxHead",
    "num_classes": 3,
    "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
    "loss_cls": LOSS,
    "loss_bbox": {"type": "L1Loss"},
}
MASK_HEAD = {"type": "FCNMaskHead", "num_classes": 3, "loss_mask": {**LOSS, "use_mask": True}}


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"type": "ResNett", "depth": 18}, ["model.type", "'ResNett'", "'ResNet'", "catalog.py"]),
        ({**RESNET, "dept": 18}, ["model:", "ResNet got an unexpected 'dept'", "accepted: depth", "'depth'"]),
        ({**RESNET, "depth": 19}, ["model:", "unknown depth 19", "18, 34, 50, 101, 152"]),
        ({"type": "ResNet"}, ["model:", "needs 'depth'"]),
        (
            {**RESNET, "norm_cfg": {"type": "BN", "requires_gradd": True}},
            ["model.norm_cfg", "'requires_gradd'", "'requires_grad'"],
        ),
        ({**RESNET, "norm_cfg": {"type": "BNN"}}, ["model:", "'BNN'", "GN"]),
        (
            {**EXTRACTOR, "roi_layer": {"type": "RoIAlign", "pool_mode": "max"}},
            ["model.roi_layer", "pool_mode 'max'", "'avg'"],
        ),
        ({**EXTRACTOR, "roi_layer": {"type": "RoIPool"}}, ["model.roi_layer", "type 'RoIPool'"]),
        (
            {**BOX_HEAD, "cls_predictor_cfg": {"type": "CosineLinear"}},
            ["cls_predictor_cfg", "'CosineLinear'", "'NormedLinear'"],
        ),
        ({**BOX_HEAD, "reg_predictor_cfg": {"type": "Conv"}}, ["reg_predictor_cfg", "'Conv'", "'Linear'"]),
        (
            {**MASK_HEAD, "predictor_cfg": {"type": "Linear"}},
            ["predictor_cfg", "'Linear'", "'Conv'", "'NormedConv2d'"],
        ),
        ({**RESNET, "strides": (1,), "num_stages": 2}, ["model:", "ResNet could not be built"]),
    ],
)
def test_errors_say_where_what_and_what_is_near(node, words):
    with pytest.raises(ConfigError) as error:
        Builder().build(node, "model")
    assert [w for w in words if w not in str(error.value)] == []


@pytest.mark.parametrize(
    ("path", "written"),
    [
        ("model.rpn_head.train_cfg.assigner", "model.train_cfg.rpn.assigner"),
        ("model.rpn_head.proposal_cfg", "model.train_cfg.rpn_proposal"),
        ("model.roi_head.test_cfg.nms", "model.test_cfg.rcnn.nms"),
        ("model.roi_head.bbox_head", "model.roi_head.bbox_head"),
    ],
)
def test_errors_name_the_path_of_the_file(path, written):
    assert written_path(path) == written


class Doubler(nn.Module):
    def __init__(self, *, inner: nn.Module, settings: dict[str, int], nms: NmsSpec | None = None) -> None:
        super().__init__()
        self.inner, self.settings, self.nms = inner, settings, nms


def test_annotations_decide_between_object_spec_and_data():
    node = {
        "type": "Doubler",
        "inner": RESNET,
        "settings": {"a": 1},
        "nms": {"type": "nms", "iou_threshold": 0.3},
    }
    built = Builder({"Doubler": Doubler}).build(node, "model")
    assert type(built.inner).__name__ == "ResNet"
    assert built.settings == {"a": 1}
    assert built.nms == NmsSpec(iou_threshold=0.3)


def test_the_catalog_is_not_changed_by_extra():
    Builder({"Doubler": Doubler})
    with pytest.raises(ConfigError, match="Doubler"):
        Builder().build({"type": "Doubler"}, "model")


def test_a_model_without_type():
    with pytest.raises(ConfigError, match="no 'type'"):
        build_model({"backbone": RESNET}, training=True)


TWO_STAGE = {
    "type": "FasterRCNN",
    "pretrained": "torchvision://resnet50",
    "backbone": {"type": "ResNet"},
    "rpn_head": {"type": "RPNHead"},
    "roi_head": {"type": "StandardRoIHead", "mask_head": None},
    "train_cfg": {
        "rpn": {"a": 1},
        "rpn_proposal": {"nms_pre": 2000, "nms_thr": 0.7, "max_num": 9, "min_bbox_size": 0},
        "rcnn": {"b": 2},
    },
    "test_cfg": {"rpn": {"c": 3}, "rcnn": {"nms": {"type": "nms", "iou_thr": 0.5}}},
}


def test_settings_reach_their_heads():
    before = copy.deepcopy(TWO_STAGE)
    got = normalise_model(TWO_STAGE)
    assert got["rpn_head"]["train_cfg"] == {"a": 1}
    assert got["rpn_head"]["proposal_cfg"] == {
        "nms_pre": 2000,
        "max_per_img": 9,
        "min_bbox_size": 0,
        "nms": {"type": "nms", "iou_threshold": 0.7},
    }
    assert got["roi_head"] == {
        "type": "StandardRoIHead",
        "train_cfg": {"b": 2},
        "test_cfg": {"nms": {"type": "nms", "iou_threshold": 0.5}},
    }
    assert got["backbone"]["init_cfg"] == {"type": "Pretrained", "checkpoint": "torchvision://resnet50"}
    assert not {"train_cfg", "test_cfg", "pretrained"} & set(got)
    assert before == TWO_STAGE


def test_training_settings_drop_out_for_testing():
    got = normalise_model(TWO_STAGE, training=False)
    assert set(got["rpn_head"]) == {"type", "test_cfg"}
    assert set(got["roi_head"]) == {"type", "test_cfg"}


def test_proposals_of_training_default_to_those_of_testing():
    got = normalise_model({**TWO_STAGE, "train_cfg": None})
    assert got["rpn_head"]["proposal_cfg"] == {"c": 3}


def test_top_level_settings_of_older_configs():
    plain = {key: value for key, value in TWO_STAGE.items() if not key.endswith("_cfg")}
    got = normalise_model(plain, train_cfg=TWO_STAGE["train_cfg"], test_cfg=TWO_STAGE["test_cfg"])
    assert got == normalise_model(TWO_STAGE)
    with pytest.raises(ConfigError, match="train_cfg: given both"):
        normalise_model(TWO_STAGE, train_cfg={"rpn": {}})


def test_unknown_stage_of_settings():
    with pytest.raises(ConfigError, match="unexpected 'rccn'"):
        normalise_model({**TWO_STAGE, "test_cfg": {"rccn": {}}})
