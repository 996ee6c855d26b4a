"""The quirks of the MMDetection v2 dialect as pure dict-to-dict functions; the input is never changed.

After ``normalise_model`` every part carries its own settings, so that a builder needs no knowledge of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from detector.errors import ConfigError

Node = dict[str, Any]


def normalise_model(
    model: Mapping[str, Any],
    *,
    training: bool = True,
    train_cfg: Mapping[str, Any] | None = None,
    test_cfg: Mapping[str, Any] | None = None,
) -> Node:
    """Rewrite a model's config so that every typed dict holds its constructor's arguments.

    Args:
        model: the ``model`` section.
        training: False drops the training settings (assigners, samplers).
        train_cfg: the top-level ``train_cfg`` of older configs.
        test_cfg: the top-level ``test_cfg`` of older configs.

    Raises:
        ConfigError: ``train_cfg`` or ``test_cfg`` is given twice, or the model has no type.
    """
    result = deepcopy(dict(model))
    if "type" not in result:
        raise ConfigError("model: no 'type' found; expected a detector such as type='MaskRCNN'.")
    for key, outer in (("train_cfg", train_cfg), ("test_cfg", test_cfg)):
        if outer is not None and result.get(key) is not None:
            raise ConfigError(
                f"model.{key}: given both inside 'model' and at the top level; keep one of them."
            )
        result[key] = result.get(key) if outer is None else deepcopy(dict(outer))
    for rewrite in (move_pretrained, unroll_rfp, rename_deform_groups, rename_nms, push_settings):
        result = rewrite(result)
    return result if training else drop_training(result)


def move_pretrained(model: Node) -> Node:
    """Turn the deprecated ``pretrained`` of a part into ``init_cfg`` (mmdet detectors/two_stage.py)."""
    result = dict(model)
    outer = result.pop("pretrained", None)
    for key, part in result.items():
        if isinstance(part, dict) and "pretrained" in part:
            result[key] = _with_checkpoint(part, part["pretrained"])
    if outer and isinstance(result.get("backbone"), dict):
        result["backbone"] = _with_checkpoint(result["backbone"], outer)
    return result


def _with_checkpoint(part: Node, checkpoint: str | None) -> Node:
    rest = {key: value for key, value in part.items() if key != "pretrained"}
    return (
        rest if checkpoint is None else {**rest, "init_cfg": {"type": "Pretrained", "checkpoint": checkpoint}}
    )


def unroll_rfp(model: Mapping[str, Any]) -> Node:
    """Turn RFP's ``rfp_backbone`` into one config per further step, ``rfp_modules`` (mmdet necks/rfp.py)."""
    result, neck = dict(model), model.get("neck")
    if not isinstance(neck, Mapping) or not isinstance(neck.get("rfp_backbone"), Mapping):
        return result
    backbone = dict(neck["rfp_backbone"])
    if "pretrained" in backbone:
        backbone = _with_checkpoint(backbone, backbone["pretrained"])
    rest = {key: value for key, value in neck.items() if key != "rfp_backbone"}
    steps = neck.get("rfp_steps", 1)
    result["neck"] = {**rest, "rfp_modules": [deepcopy(backbone) for _ in range(1, int(steps))]}
    return result


def rename_deform_groups(node: Any) -> Any:
    """Rewrite ``deformable_groups``, once the name of ``deform_groups`` (mmcv ops/deform_conv.py)."""
    if isinstance(node, (list, tuple)):
        return type(node)(rename_deform_groups(item) for item in node)
    if not isinstance(node, dict):
        return node
    deformable = str(node.get("type")).startswith("DCN")
    return {
        "deform_groups" if deformable and key == "deformable_groups" else key: rename_deform_groups(value)
        for key, value in node.items()
    }


def rename_nms(node: Any) -> Any:
    """Rewrite old spellings of suppression settings anywhere.

    ``nms.iou_thr``, ``nms_thr``, ``max_num``, ``nms_across_levels``.
    """
    if isinstance(node, (list, tuple)):
        return type(node)(rename_nms(item) for item in node)
    if not isinstance(node, dict):
        return node
    result = {key: rename_nms(value) for key, value in node.items()}
    nms = result.get("nms")
    if isinstance(nms, dict) and "iou_thr" in nms:
        result["nms"] = {("iou_threshold" if key == "iou_thr" else key): value for key, value in nms.items()}
    if "nms_pre" in result and "min_bbox_size" in result:  # the RPN's settings up to MMDetection 2.3
        if "nms_thr" in result:
            result["nms"] = {"type": "nms", "iou_threshold": result.pop("nms_thr")}
        if "max_num" in result:
            result["max_per_img"] = result.pop("max_num")
        result.pop("nms_post", None)
        if result.get("nms_across_levels") is False:
            result.pop("nms_across_levels")
    return result


def push_settings(model: Node) -> Node:
    """Hand ``train_cfg`` and ``test_cfg`` to the heads (mmdet detectors/two_stage.py and single_stage.py)."""
    result = dict(model)
    train, test = result.pop("train_cfg", None) or {}, result.pop("test_cfg", None) or {}
    if "rpn_head" in result or "roi_head" in result:
        _push_two_stage(result, train, test)
    else:
        for head in ("bbox_head", "mask_head", "panoptic_head"):
            if isinstance(result.get(head), dict):
                result[head] = _given(result[head], train_cfg=train, test_cfg=test)
                break
    return result


def _push_two_stage(model: Node, train: Mapping[str, Any], test: Mapping[str, Any]) -> None:
    known = {"rpn", "rpn_proposal", "rcnn"}
    for where, settings in (("train_cfg", train), ("test_cfg", test)):
        unknown = sorted(set(settings) - known)
        if unknown:
            raise ConfigError(
                f"model.{where}: unexpected {unknown[0]!r}; expected {', '.join(sorted(known))}."
            )
    if isinstance(model.get("rpn_head"), dict):
        proposal = train.get("rpn_proposal", test.get("rpn"))
        model["rpn_head"] = _given(
            model["rpn_head"], train_cfg=train.get("rpn"), test_cfg=test.get("rpn"), proposal_cfg=proposal
        )
    if isinstance(model.get("roi_head"), dict):
        roi_head = repeat_stages(share_extractor(model["roi_head"]))
        model["roi_head"] = _given(roi_head, train_cfg=train.get("rcnn"), test_cfg=test.get("rcnn"))


def share_extractor(roi_head: Node) -> Node:
    """Drop ``mask_head=None`` and ``mask_roi_extractor=None``: absent and None are the same."""
    return {key: value for key, value in roi_head.items() if not (value is None and key.startswith("mask_"))}


_STAGE_PARTS = ("bbox_roi_extractor", "bbox_head", "mask_roi_extractor", "mask_head")
_ONE_MASK_HEAD = ("SCNetRoIHead",)  # the last stage alone predicts masks


def repeat_stages(roi_head: Node) -> Node:
    """Repeat single parts of a cascade for every stage (mmdet roi_heads/cascade_roi_head.py)."""
    result, stages = dict(roi_head), roi_head.get("num_stages")
    if not isinstance(stages, int):
        return result
    for key in _STAGE_PARTS:
        once = key.startswith("mask_") and result.get("type") in _ONE_MASK_HEAD
        if isinstance(result.get(key), dict) and not once:
            result[key] = [deepcopy(result[key]) for _ in range(stages)]
    return result


def _given(part: Node, **settings: Any) -> Node:
    """Copy of ``part`` with the settings that are not empty; what the part says itself wins."""
    return {**{key: deepcopy(value) for key, value in settings.items() if value}, **part}


def drop_training(node: Any) -> Any:
    """Remove every ``train_cfg`` and ``proposal_cfg``."""
    if isinstance(node, (list, tuple)):
        return type(node)(drop_training(item) for item in node)
    if not isinstance(node, dict):
        return node
    return {
        key: drop_training(value) for key, value in node.items() if key not in ("train_cfg", "proposal_cfg")
    }


_PUSHED = {
    "model.rpn_head.train_cfg": "model.train_cfg.rpn",
    "model.rpn_head.test_cfg": "model.test_cfg.rpn",
    "model.rpn_head.proposal_cfg": "model.train_cfg.rpn_proposal",
    "model.roi_head.train_cfg": "model.train_cfg.rcnn",
    "model.roi_head.test_cfg": "model.test_cfg.rcnn",
    "model.neck.rfp_modules": "model.neck.rfp_backbone",
    "model.bbox_head.train_cfg": "model.train_cfg",
    "model.bbox_head.test_cfg": "model.test_cfg",
}


def written_path(path: str) -> str:
    """Path of a setting as the config file has it, for a path of the normalised form."""
    for pushed, written in _PUSHED.items():
        if path == pushed or path.startswith((pushed + ".", pushed + "[")):
            return written + path[len(pushed) :]
    return path
