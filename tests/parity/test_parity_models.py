"""Two-stage models against the numbers recorded from MMDetection 2.28.2 (tests/golden/models/README.md)."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from detector.build import build_model
from detector.config import load_config
from detector.structures.samples import Batch, ImageMeta, Targets

GOLDEN = Path(__file__).parents[1] / "golden"
PREDICTING = [
    "mask_rcnn__mask_rcnn_r50_fpn_1x_coco",
    "gn__mask_rcnn_r50_fpn_gn-all_2x_coco",
    "faster_rcnn__faster_rcnn_x101_32x4d_fpn_1x_coco",
    "gn+ws__faster_rcnn_r50_fpn_gn_ws-all_1x_coco",
    "pafpn__faster_rcnn_r50_pafpn_1x_coco",
    "rpn__rpn_r50_fpn_1x_coco",
]
# Float32 itself: this model's outputs differ from float64 by up to 2.8e-4 of their standard deviation.
TOLERANCE = {"gn+ws__faster_rcnn_r50_fpn_gn_ws-all_1x_coco": 3e-4}
TRAINING = [
    "mask_rcnn__mask_rcnn_r50_fpn_1x_coco",
    "faster_rcnn__faster_rcnn_x101_32x4d_fpn_1x_coco",
    "rpn__rpn_r50_fpn_1x_coco",
]


def weights_module():
    spec = importlib.util.spec_from_file_location("golden_weights", GOLDEN / "golden_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WEIGHTS = weights_module()


def replace_everywhere(node, changes, only_type=None):
    """Set keys in every nested dict that has them (and, if given, the type)."""
    if isinstance(node, dict):
        matches = only_type is None or node.get("type") == only_type
        hits = {k: v for k, v in changes.items() if k in node and matches}
        return {k: hits.get(k, replace_everywhere(v, changes, only_type)) for k, v in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(replace_everywhere(v, changes, only_type) for v in node)
    return node


def load(stem):
    """The golden file, what it says, and the model with the golden weights."""
    spec = importlib.util.find_spec("mmdet")  # located, never imported
    if spec is None or spec.origin is None:
        pytest.skip("the reference's configs come with the dev dependency mmdet")
    golden = np.load(GOLDEN / "models" / f"{stem}.npz")
    info = json.loads(bytes(golden["info"]))
    cfg = load_config(Path(spec.origin).parent / ".mim" / "configs" / info["config"]).data["model"]
    cfg = replace_everywhere(cfg, {"num": 1_000_000}, "RandomSampler")
    cfg["test_cfg"] = replace_everywhere(cfg["test_cfg"], info["test_cfg_overrides"])
    model = build_model(cfg, training=True)
    WEIGHTS.fill_model(model)
    return golden, info, model


def summary(tensor):
    flat = tensor.detach().double().flatten()
    picked = flat[:: max(1, flat.numel() // 16)][:16]
    return np.array([flat.mean().item(), flat.std().item(), *picked.tolist()])


def assert_summaries(tensors, wanted, tolerance):
    assert len(tensors) == len(wanted)
    worst = max(np.abs(summary(t) - np.array(w)).max() / w[1] for t, w in zip(tensors, wanted, strict=True))
    assert worst < tolerance


def matches(rows, labels, found):
    """Pairs (golden row, own row) with the same label, score within 1e-4 and box within 0.05 pixels."""
    boxes, scores, own = found.boxes.numpy(), found.scores.numpy(), found.labels.numpy()
    used, pairs = np.zeros(len(found), bool), []
    for i, row in enumerate(rows):
        close = (np.abs(scores - row[4]) < 1e-4) & (np.abs(boxes - row[:4]).max(axis=1, initial=0) < 0.05)
        candidates = np.flatnonzero(close & (own == labels[i]) & ~used)
        if len(candidates):
            used[candidates[0]] = True
            pairs.append((i, candidates[0]))
    return pairs


def mask_iou(a, b):
    if coco_mask.area(a) + coco_mask.area(b) == 0:
        return 1.0
    return coco_mask.iou([a], [b], [0])[0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("stem", PREDICTING)
@torch.no_grad()
def test_features_and_detections(stem):
    golden, info, model = load(stem)
    model.eval()
    for name, case in info["cases"].items():
        height, width = case["img_shape"]
        image = WEIGHTS.golden_image(*info["pad"], case["seed"])
        image[:, :, height:] = 0
        image[..., width:] = 0
        meta = ImageMeta(tuple(case["ori_shape"]), (height, width), tuple(info["pad"]), (case["scale"],) * 4)
        feats = model.extract_feat(image)
        assert_summaries(feats, info[f"{name}/feats"], TOLERANCE.get(stem, 1e-4))
        if f"{name}/rpn" in info:
            logits, deltas = model.rpn_head(feats)
            assert_summaries([*logits, *deltas], info[f"{name}/rpn"], TOLERANCE.get(stem, 1e-4))
        found = model.predict(Batch(images=image, metas=[meta]))[0]
        assert len(found) == len(golden[f"{name}/dets"])
        pairs = matches(golden[f"{name}/dets"], golden[f"{name}/labels"], found)
        assert len(pairs) >= 0.98 * len(found)
        if f"{name}/rles" in golden:
            rles = json.loads(bytes(golden[f"{name}/rles"]))
            wanted = [{"size": size, "counts": counts.encode()} for size, counts in rles]
            assert min(mask_iou(found.masks[j], wanted[i]) for i, j in pairs) >= 0.99


def golden_targets(height, width, num_classes):
    scale = torch.tensor([width / 256, height / 192, width / 256, height / 192])
    boxes = scale * torch.tensor(
        [[20.0, 30, 120, 150], [100, 20, 200, 90], [150, 100, 190, 170], [40, 60, 70, 85]]
    )
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    masks = []
    for x0, y0, x1, y1 in boxes.tolist():
        x, y = (columns - (x0 + x1) / 2) / ((x1 - x0) / 2), (rows - (y0 + y1) / 2) / ((y1 - y0) / 2)
        masks.append((x**2 + y**2 <= 1).to(torch.uint8))
    labels = torch.tensor([1, 5, 17, 40]) % num_classes
    return Targets(boxes=boxes, labels=labels, masks=torch.stack(masks))


@pytest.mark.slow
@pytest.mark.parametrize("stem", TRAINING)
def test_losses_and_gradients(stem):
    _, info, model = load(stem)
    model.train()
    pad = tuple(info["pad"])
    targets = golden_targets(*pad, model.num_classes or 80)
    losses = model.loss(Batch(WEIGHTS.golden_image(*pad), [ImageMeta(pad, pad, pad)], [targets]))
    losses["loss"] = sum(value for name, value in losses.items() if "loss" in name)
    losses["loss"].backward()
    got = {name: value.item() for name, value in losses.items()}
    assert got == pytest.approx(info["losses"], rel=1e-4)
    grads = {
        name: p.grad.double().norm().item() for name, p in model.named_parameters() if p.grad is not None
    }
    assert sum(p.grad is None for p in model.parameters()) == info["no_grad"]
    assert np.sqrt(sum(g**2 for g in grads.values())) == pytest.approx(info["grad_norm"], rel=1e-4)
    assert {name: grads[name] for name in info["grads"]} == pytest.approx(info["grads"], rel=1e-3)
