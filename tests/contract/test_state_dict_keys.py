"""Keys and shapes of models built from the reference's own configs, against those of the reference's models.

``golden/state_dict_digests.json`` holds, per config, the first 16 digits of the sha256 over the sorted lines
"key [shape]"; one config per distinct model.
"""

import hashlib
import importlib.util
import json
from pathlib import Path

import pytest
import torch

from detector.build import build_model
from detector.config import load_config
from detector.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden"
DIGESTS = json.loads((GOLDEN / "state_dict_digests.json").read_text())
ANCHORS = {
    "backbone.layer1.0.conv1.weight": (64, 64, 1, 1),
    "backbone.layer4.2.bn3.running_var": (2048,),
    "neck.lateral_convs.0.conv.weight": (256, 256, 1, 1),
    "neck.fpn_convs.3.conv.bias": (256,),
    "rpn_head.rpn_conv.weight": (256, 256, 3, 3),
    "rpn_head.rpn_reg.bias": (12,),
    "roi_head.bbox_head.shared_fcs.0.weight": (1024, 12544),
    "roi_head.bbox_head.fc_cls.weight": (81, 1024),
    "roi_head.mask_head.convs.3.conv.weight": (256, 256, 3, 3),
    "roi_head.mask_head.upsample.weight": (256, 256, 2, 2),
    "roi_head.mask_head.conv_logits.weight": (80, 256, 1, 1),
}


def configs_root():
    spec = importlib.util.find_spec("mmdet")  # located, never imported
    if spec is None or spec.origin is None:
        pytest.skip("the reference's configs come with the dev dependency mmdet")
    return Path(spec.origin).parent / ".mim" / "configs"


def shapes(name):
    with torch.device("meta"):
        model = build_model(load_config(configs_root() / name).data["model"], training=True)
    return {key: list(value.shape) for key, value in model.state_dict().items()}


@pytest.mark.parametrize("name", sorted(DIGESTS))
def test_keys_and_shapes_equal_the_reference(name):
    lines = "\n".join(f"{key} {shape}" for key, shape in sorted(shapes(name).items()))
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == DIGESTS[name]


def test_some_keys_in_full():
    found = shapes("mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py")
    assert {key: tuple(found.get(key, ())) for key in ANCHORS} == ANCHORS


def test_a_config_that_the_reference_refuses_as_well():
    with pytest.raises(ConfigError, match="unexpected 'bbox_head'"):
        shapes("objects365/retinanet_r50_fpn_syncbn_1350k_obj365v1.py")
