"""Keys and shapes of models built from the reference's own configs, against those of the reference's models.

``golden/state_dict_digests.json`` holds, per config, the first 16 digits of the sha256 over the sorted lines
"key [shape]". ``python -m tests.contract.zoo_keys`` counts them per family.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detector.errors import ConfigError
from tests.contract.zoo_keys import Shapes, built_shapes, digest, reference_configs

GOLDEN = Path(__file__).parents[1] / "golden"
DIGESTS: dict[str, str] = json.loads((GOLDEN / "state_dict_digests.json").read_text())
MASK_RCNN = {
    "backbone.layer1.0.conv1.weight": [64, 64, 1, 1],
    "backbone.layer4.2.bn3.running_var": [2048],
    "neck.lateral_convs.0.conv.weight": [256, 256, 1, 1],
    "neck.fpn_convs.3.conv.bias": [256],
    "rpn_head.rpn_conv.weight": [256, 256, 3, 3],
    "rpn_head.rpn_reg.bias": [12],
    "roi_head.bbox_head.shared_fcs.0.weight": [1024, 12544],
    "roi_head.bbox_head.fc_cls.weight": [81, 1024],
    "roi_head.mask_head.convs.3.conv.weight": [256, 256, 3, 3],
    "roi_head.mask_head.upsample.weight": [256, 256, 2, 2],
    "roi_head.mask_head.conv_logits.weight": [80, 256, 1, 1],
}
RETINANET = {
    "bbox_head.cls_convs.3.conv.weight": [256, 256, 3, 3],
    "bbox_head.retina_cls.weight": [720, 256, 3, 3],
    "bbox_head.retina_reg.bias": [36],
}


def shapes(name: str) -> Shapes:
    root = reference_configs()
    if root is None:
        pytest.skip("the reference's configs come with the dev dependency mmdet")
    return built_shapes(root / name)


@pytest.mark.parametrize("name", sorted(DIGESTS))
def test_keys_and_shapes_equal_the_reference(name: str) -> None:
    assert digest(shapes(name)) == DIGESTS[name]


@pytest.mark.parametrize(
    ("name", "anchors"),
    [
        ("mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py", MASK_RCNN),
        ("retinanet/retinanet_r50_fpn_1x_coco.py", RETINANET),
    ],
)
def test_some_keys_in_full(name: str, anchors: Shapes) -> None:
    found = shapes(name)
    assert {key: found.get(key) for key in anchors} == anchors


def test_a_config_that_the_reference_refuses_as_well() -> None:
    with pytest.raises(ConfigError, match="unexpected 'bbox_head'"):
        shapes("objects365/retinanet_r50_fpn_syncbn_1350k_obj365v1.py")
