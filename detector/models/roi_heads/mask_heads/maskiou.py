"""Mask IoU head: how well a predicted mask fits.

Shapes: K regions, C classes, P bins per side, M = 2 P mask pixels per side, H x W padded input.
Boxes: xyxy, pixels of the padded network input.
Paper: Huang et al., Mask Scoring R-CNN, CVPR 2019, arXiv:1903.00241. Attribute names are the checkpoint
format (MMDetection 2.28, mask_heads/maskiou_head.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from detector.layers.init import InitRules, apply_rules
from detector.losses.mse import MSELoss
from detector.structures.specs import InitSpec

IOU_INIT = [
    InitSpec(type="Kaiming", override={"name": "convs"}),
    InitSpec(type="Caffe2Xavier", override={"name": "fcs"}),
    InitSpec(type="Normal", std=0.01, override={"name": "fc_mask_iou"}),
]
_EPS = 1e-7


def share_inside(masks: Tensor, boxes: Tensor, rows: Tensor) -> Tensor:
    """Which share (n,) of a mask's pixels lies inside a box, at least one pixel wide and high.

    Args:
        masks: (G, H, W) 0/1.
        boxes: (n, 4), cut down to whole pixels.
        rows: (n,) int64 the mask of each box.
    """
    height, width = masks.shape[-2:]
    # sums[g, y, x]: pixels above and left of (x, y); float64 counts exactly
    sums = pad(masks.double(), (1, 0, 1, 0)).cumsum(dim=1).cumsum(dim=2)
    x0, y0, x1, y1 = boxes.long().unbind(dim=1)
    x0, x1 = x0.clamp(0, width), x1.clamp(0, width)
    y0, y1 = y0.clamp(0, height), y1.clamp(0, height)
    x1 = torch.minimum(x0 + (x1 - x0).clamp(min=1), x0.new_tensor(width))
    y1 = torch.minimum(y0 + (y1 - y0).clamp(min=1), y0.new_tensor(height))
    inside = sums[rows, y1, x1] - sums[rows, y0, x1] - sums[rows, y1, x0] + sums[rows, y0, x0]
    return (inside / (sums[rows, -1, -1] + _EPS)).to(boxes)


def iou_targets(masks: Tensor, wanted: Tensor, shares: Tensor) -> Tensor:
    """IoU (K,) of predicted masks with whole objects.

    Args:
        masks: (K, M, M) 0/1 predicted inside the region.
        wanted: (K, M, M) 0/1 the object inside the region.
        shares: (K,) part of the object that lies inside the region.
    """
    overlap = (masks * wanted).sum(dim=(1, 2))
    whole = wanted.sum(dim=(1, 2)) / (shares + _EPS)
    return overlap / (masks.sum(dim=(1, 2)) + whole - overlap)


class MaskIoUHead(nn.Module):
    """Convolutions and linear layers on region features and the predicted mask."""

    def __init__(
        self,
        *,
        num_convs: int = 4,
        num_fcs: int = 2,
        roi_feat_size: int = 14,
        in_channels: int = 256,
        conv_out_channels: int = 256,
        fc_out_channels: int = 1024,
        num_classes: int = 80,
        loss_iou: nn.Module | None = None,
        init_cfg: InitRules = IOU_INIT,
    ) -> None:
        """Describe the head.

        Args:
            num_convs: convolutions, the last with stride 2.
            num_fcs: hidden linear layers.
            roi_feat_size: P.
            in_channels: channels of the region features.
            conv_out_channels: channels of the convolutions.
            fc_out_channels: width of the linear layers.
            num_classes: C, without background.
            loss_iou: loss of the IoU; None is the squared difference of weight 0.5.
            init_cfg: rules for the initial values.
        """
        super().__init__()
        widths = [in_channels + 1] + [conv_out_channels] * num_convs
        self.convs = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, stride=2 if i == num_convs - 1 else 1, padding=1)
            for i in range(num_convs)
        )
        widths = [conv_out_channels * (roi_feat_size // 2) ** 2] + [fc_out_channels] * num_fcs
        self.fcs = nn.ModuleList(nn.Linear(widths[i], widths[i + 1]) for i in range(num_fcs))
        self.fc_mask_iou = nn.Linear(fc_out_channels, num_classes)
        self.relu, self.max_pool = nn.ReLU(), nn.MaxPool2d(2, 2)
        self.loss_iou = MSELoss(loss_weight=0.5) if loss_iou is None else loss_iou
        self.init_cfg = init_cfg

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        """(K, in_channels, P, P) and own mask logits (K, M, M) give IoUs (K, C)."""
        x = torch.cat((features, self.max_pool(logits.sigmoid()[:, None])), dim=1)
        for conv in self.convs:
            x = self.relu(conv(x))
        x = x.flatten(1)
        for fc in self.fcs:
            x = self.relu(fc(x))
        return self.fc_mask_iou(x)

    def loss(self, ious: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """Scalar loss_mask_iou of own IoUs (K,) against (K,), over those above 0; 0 without any."""
        found = wanted > 0
        value = self.loss_iou(ious[found], wanted[found]) if bool(found.any()) else ious.sum() * 0
        return {"loss_mask_iou": value}

    def init_weights(self) -> None:
        """Kaiming convolutions, Caffe2 Xavier linear layers unless ``init_cfg`` says otherwise."""
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)
