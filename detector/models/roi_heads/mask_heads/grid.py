"""Grid head: a box as a grid of points, each a heat map around the region.

Shapes: K regions, G grid points (column by column), P bins per side in, M = 4 P pixels of the whole map per
side, of which each point's own map covers M / 2.
Boxes: xyxy, pixels of the padded network input.
Papers: Lu et al., Grid R-CNN, CVPR 2019, arXiv:1811.12030; Grid R-CNN Plus, arXiv:1906.05688. Attribute names
are the checkpoint format (MMDetection 2.28, models/roi_heads/mask_heads/grid_head.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from detector.errors import ConfigError
from detector.layers.conv import ConvModule
from detector.layers.init import InitRules, apply_rules, init_conv_modules
from detector.losses.cross_entropy import CrossEntropyLoss
from detector.structures.specs import ConvSpec, InitSpec, NormSpec

GROUP_NORM = NormSpec(type="GN", num_groups=36)
# The last layer starts where the probability of a point is 0.01.
_RARE = {"type": "Normal", "name": "deconv2", "std": 0.001, "bias": -math.log(0.99 / 0.01)}
GRID_INIT = [
    InitSpec(type="Kaiming", layer=["Conv2d", "Linear"]),
    InitSpec(type="Normal", layer="ConvTranspose2d", std=0.001, override=_RARE),
]


def neighbours(side: int) -> list[list[int]]:
    """Points left, above, below and right of each point of a grid stored column by column."""
    found = []
    for x in range(side):
        for y in range(side):
            around = ((x - 1, y), (x, y - 1), (x, y + 1), (x + 1, y))
            found.append([i * side + j for i, j in around if 0 <= i < side and 0 <= j < side])
    return found


class GridHead(nn.Module):
    """Convolutions, messages between neighbouring points and two upsamplings."""

    def __init__(
        self,
        *,
        grid_points: int = 9,
        num_convs: int = 8,
        roi_feat_size: int = 14,
        in_channels: int = 256,
        conv_kernel_size: int = 3,
        point_feat_channels: int = 64,
        deconv_kernel_size: int = 4,
        class_agnostic: bool = False,
        loss_grid: nn.Module | None = None,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec = GROUP_NORM,
        init_cfg: InitRules = GRID_INIT,
    ) -> None:
        """Describe the head.

        Args:
            grid_points: G, a square number of at least 4.
            num_convs: hidden convolutions, the first with stride 2.
            roi_feat_size: P.
            in_channels: channels of the region features.
            conv_kernel_size: of the hidden convolutions.
            point_feat_channels: hidden channels per point.
            deconv_kernel_size: of the two upsamplings.
            class_agnostic: kept for the dialect; the maps never depend on the class.
            loss_grid: loss of the maps; None is sigmoid cross entropy of weight 15.
            conv_cfg: kind of convolution.
            norm_cfg: kind of norm.
            init_cfg: rules for the initial values.
        """
        super().__init__()
        self.grid_points, self.grid_size = grid_points, math.isqrt(grid_points)
        if grid_points < 4 or self.grid_size**2 != grid_points:
            raise ConfigError(f"GridHead: grid_points {grid_points}; expected a square number of at least 4.")
        self.point_channels, self.init_cfg = point_feat_channels, init_cfg
        width = point_feat_channels * grid_points
        self.map_size, self.half_size = roi_feat_size * 4, roi_feat_size * 2
        self.convs = nn.Sequential(
            *[
                ConvModule(
                    in_channels if i == 0 else width,
                    width,
                    conv_kernel_size,
                    stride=2 if i == 0 else 1,
                    padding=(conv_kernel_size - 1) // 2,
                    bias=True,
                    conv_cfg=conv_cfg,
                    norm_cfg=norm_cfg,
                )
                for i in range(num_convs)
            ]
        )
        padding = (deconv_kernel_size - 2) // 2
        self.deconv1 = nn.ConvTranspose2d(
            width, width, deconv_kernel_size, stride=2, padding=padding, groups=grid_points
        )
        self.norm1 = nn.GroupNorm(grid_points, width)
        self.deconv2 = nn.ConvTranspose2d(
            width, grid_points, deconv_kernel_size, stride=2, padding=padding, groups=grid_points
        )
        self.neighbor_points = neighbours(self.grid_size)
        self.forder_trans, self.sorder_trans = self._messages(), self._messages()
        self.loss_grid = (
            CrossEntropyLoss(use_sigmoid=True, loss_weight=15) if loss_grid is None else loss_grid
        )

    def _messages(self) -> nn.ModuleList:
        """Per point and neighbour a separable 5 x 5 convolution."""
        c = self.point_channels
        return nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(nn.Conv2d(c, c, 5, padding=2, groups=c), nn.Conv2d(c, c, 1)) for _ in around
            )
            for around in self.neighbor_points
        )

    def _pass(self, own: list[Tensor], heard: list[Tensor], layers: nn.ModuleList) -> list[Tensor]:
        """Add to every point what its neighbours say."""
        result = []
        for x, around, convs in zip(own, self.neighbor_points, layers, strict=True):
            for j, conv in zip(around, convs, strict=True):  # type: ignore[call-overload]
                x = x + conv(heard[j])
            result.append(x)
        return result

    def _maps(self, x: Tensor) -> Tensor:
        return self.deconv2(relu(self.norm1(self.deconv1(x))))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(K, in_channels, P, P) gives logits (K, G, M / 2, M / 2) with and without messages; K at least 1.

        In eval mode both are the same tensor.
        """
        x = self.convs(x)
        points = list(x.split(self.point_channels, dim=1))
        first = self._pass(points, points, self.forder_trans)
        fused = self._maps(torch.cat(self._pass(points, first, self.sorder_trans), dim=1))
        return fused, self._maps(x) if self.training else fused

    def init_weights(self) -> None:
        """Kaiming convolutions, normal upsamplings unless ``init_cfg`` says otherwise."""
        init_conv_modules(self)
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)

    def _places(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Column and row (G,) of each point in the grid."""
        points = torch.arange(self.grid_points, device=device)
        return points // self.grid_size, points % self.grid_size

    def _corners(self, place: Tensor) -> Tensor:
        """First pixel (G,) of each point's own map inside the whole map, along one axis."""
        last = self.grid_size - 1
        inner = ((place / last - 0.25) * self.map_size).floor().clamp(min=0).long()
        inner = torch.where(place == last, self.half_size, inner)
        return torch.where(place == 0, 0, inner)

    def targets(self, boxes: Tensor, gt_boxes: Tensor, radius: int) -> Tensor:
        """Discs of ``radius`` pixels around the points of the ground truth.

        Args:
            boxes: (K, 4) regions; the maps cover twice their sides.
            gt_boxes: (K, 4) what they stand for.
            radius: of the discs.

        Returns:
            (K, G, M / 2, M / 2) 0/1; empty maps where a doubled side is not longer than the grid.
        """
        column, row = self._places(boxes.device)
        size = boxes[:, 2:] - boxes[:, :2]
        start, end = boxes[:, :2] - size / 2, boxes[:, 2:] + size / 2
        whole = end - start
        steps = torch.arange(self.half_size, device=boxes.device)
        distance = []
        for axis, place in ((0, column), (1, row)):
            weight = 1 - place / (self.grid_size - 1)
            point = weight * gt_boxes[:, axis, None] + (1 - weight) * gt_boxes[:, axis + 2, None]
            pixel = ((point - start[:, axis, None]) / whole[:, axis, None] * self.map_size).long()
            distance.append((self._corners(place) - pixel)[..., None] + steps)
        inside = distance[0][:, :, None, :] ** 2 + distance[1][:, :, :, None] ** 2 <= radius**2
        return (inside & (whole > self.grid_size).all(dim=1)[:, None, None, None]).to(boxes)

    def loss(self, maps: tuple[Tensor, Tensor], wanted: Tensor) -> dict[str, Tensor]:
        """Scalar loss_grid of both kinds of maps against (K, G, M / 2, M / 2)."""
        return {"loss_grid": self.loss_grid(maps[0], wanted) + self.loss_grid(maps[1], wanted)}

    def decode(self, boxes: Tensor, maps: Tensor) -> Tensor:
        """Boxes (K, 4) through the brightest pixel of each point's map, weighted by its probability.

        Like the reference's, the boxes are not clipped.

        Args:
            boxes: (K, 4) regions.
            maps: (K, G, M / 2, M / 2) logits.
        """
        column, row = self._places(boxes.device)
        scores, position = maps.float().sigmoid().flatten(2).max(dim=2)
        size = boxes[:, 2:] - boxes[:, :2]
        start = boxes[:, :2] - size / 2
        x = position % self.half_size + self._corners(column)
        y = position // self.half_size + self._corners(row)
        x = (x.float() + 0.5) / self.half_size * size[:, :1] + start[:, :1]
        y = (y.float() + 0.5) / self.half_size * size[:, 1:] + start[:, 1:]
        last = self.grid_size - 1
        sides = ((x, column == 0), (y, row == 0), (x, column == last), (y, row == last))
        return torch.stack(
            [(v[:, on] * scores[:, on]).sum(dim=1) / scores[:, on].sum(dim=1) for v, on in sides], dim=1
        )
