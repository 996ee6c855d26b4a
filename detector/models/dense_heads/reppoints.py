"""RepPoints: a set of points stands for every box, and tells where the features are sampled.

Shapes: B images, L levels, C classes, n points of a set, P cells of all levels, S positive cells of the
batch.
Boxes: xyxy, pixels of the padded network input, or in strides from the cell where said. Sets of points hold
(row, column) pairs in strides from the cell.
Paper: Yang et al., ICCV 2019, arXiv:1904.11490. Attribute names are the checkpoint format (MMDetection 2.28,
models/dense_heads/reppoints_head.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.errors import ConfigError
from detector.layers.deform_conv import DeformConv2d
from detector.layers.init import InitRules
from detector.losses.focal import FocalLoss
from detector.losses.smooth_l1 import SmoothL1Loss
from detector.models.dense_heads.anchor_free import AnchorFreeHead, towers_init
from detector.models.dense_heads.anchor_targets import (
    AnchorTargets,
    anchor_targets,
    flatten_levels,
    map_sizes,
)
from detector.models.dense_heads.selection import Candidates
from detector.structures.boxes import clip
from detector.structures.samples import ImageMeta, Targets
from detector.structures.specs import Spec
from detector.targets.assigners.assignment import Assigner, Assignment
from detector.targets.assigners.point import PointAssigner
from detector.targets.assigners.regress_range import level_values
from detector.targets.priors.points import MlvlPointGenerator
from detector.targets.samplers.pseudo import PseudoSampler

REPPOINTS_INIT = towers_init(predictor="reppoints_cls_out")
TRANSFORMS = ("minmax", "partial_minmax", "moment")


@dataclass(frozen=True)
class RepPointsStageSpec(Spec):
    """How cells become targets of one stage; ``pos_weight`` -1 means 1."""

    assigner: Assigner
    allowed_border: float = -1
    pos_weight: float = -1
    debug: bool = False


@dataclass(frozen=True)
class RepPointsTrainSpec(Spec):
    """Settings of the first and the refined set of points."""

    init: RepPointsStageSpec
    refine: RepPointsStageSpec


class RepPointsHead(AnchorFreeHead):
    """The head; ``moment_transfer`` (only with 'moment') learns how wide a set's box is."""

    def __init__(
        self,
        *,
        point_feat_channels: int = 256,
        num_points: int = 9,
        gradient_mul: float = 0.1,
        point_strides: Sequence[int] = (8, 16, 32, 64, 128),
        point_base_scale: float = 4,
        loss_bbox_init: nn.Module | None = None,
        loss_bbox_refine: nn.Module | None = None,
        use_grid_points: bool = False,
        center_init: bool = True,
        transform_method: str = "moment",
        moment_mul: float = 0.01,
        train_cfg: RepPointsTrainSpec | None = None,
        init_cfg: InitRules = REPPOINTS_INIT,
        **kwargs: Any,
    ) -> None:
        """Describe the head; see ``AnchorFreeHead`` for the other arguments.

        Args:
            point_feat_channels: channels in front of the outputs.
            num_points: points of a set, an odd square.
            gradient_mul: share of the gradient that the sampling passes to the first points.
            point_strides: pixels between cells of each level.
            point_base_scale: side of the first boxes in strides.
            loss_bbox_init: loss of the first boxes.
            loss_bbox_refine: loss of the refined boxes.
            use_grid_points: the points form a grid on a regressed box.
            center_init: without a grid, all points start at the cell, else on a square around it.
            transform_method: box of a set: 'minmax', 'partial_minmax' (first four points) or 'moment'.
            moment_mul: share of the gradient that ``moment_transfer`` gets.
            train_cfg: assigners; None builds a head for testing only.
            init_cfg: rules for the initial values.
            **kwargs: arguments of ``AnchorFreeHead``.

        Raises:
            ConfigError: ``num_points`` is no odd square, or an unknown ``transform_method``.
        """
        self.num_points, self.kernel = num_points, math.isqrt(num_points)
        if self.kernel**2 != num_points or self.kernel % 2 == 0:
            raise ConfigError(f"RepPointsHead.num_points: found {num_points}; expected an odd square, say 9.")
        if transform_method not in TRANSFORMS:
            raise ConfigError(
                f"RepPointsHead.transform_method: found {transform_method!r}; "
                f"expected {', '.join(TRANSFORMS)}."
            )
        self.point_feat_channels, self.use_grid_points = point_feat_channels, use_grid_points
        super().__init__(init_cfg=init_cfg, **kwargs)
        self.stages = train_cfg
        self.gradient_mul, self.center_init = gradient_mul, center_init
        self.point_strides, self.point_base_scale = tuple(point_strides), point_base_scale
        self.prior_generator = MlvlPointGenerator(strides=self.point_strides, offset=0.0)
        self.transform_method, self.moment_mul = transform_method, moment_mul
        if transform_method == "moment":
            self.moment_transfer = nn.Parameter(torch.zeros(2))
        self.loss_bbox_init = loss_bbox_init or SmoothL1Loss(beta=1 / 9, loss_weight=0.5)
        self.loss_bbox_refine = loss_bbox_refine or SmoothL1Loss(beta=1 / 9, loss_weight=1.0)

    def _init_layers(self) -> None:
        self.cls_convs, self.reg_convs = self._tower(), self._tower()
        width, inner, size = self.feat_channels, self.point_feat_channels, self.kernel
        values = 4 if self.use_grid_points else 2 * self.num_points
        self.reppoints_cls_conv = DeformConv2d(width, inner, size, padding=size // 2)
        self.reppoints_cls_out = nn.Conv2d(inner, self.cls_out_channels, 1)
        self.reppoints_pts_init_conv = nn.Conv2d(width, inner, 3, padding=1)
        self.reppoints_pts_init_out = nn.Conv2d(inner, values, 1)
        self.reppoints_pts_refine_conv = DeformConv2d(width, inner, size, padding=size // 2)
        self.reppoints_pts_refine_out = nn.Conv2d(inner, values, 1)

    def init_weights(self) -> None:
        """As ``AnchorFreeHead``; the deformable convolutions keep the values they were made with."""
        super().init_weights()
        if self.transform_method == "moment":
            nn.init.zeros_(self.moment_transfer)

    def kernel_positions(self, like: Tensor) -> Tensor:
        """(1, 2 n, 1, 1) row and column of every kernel position, 0 in the middle."""
        reach = torch.arange(self.kernel, device=like.device, dtype=like.dtype) - self.kernel // 2
        rows, columns = torch.meshgrid(reach, reach, indexing="ij")
        return torch.stack((rows, columns), dim=-1).reshape(1, -1, 1, 1)

    def box_of(self, points: Tensor) -> Tensor:
        """Sets of points (N, 2 n, ...) give boxes (N, 4, ...) in the same unit."""
        y, x = points.unflatten(1, (-1, 2)).unbind(dim=2)
        if self.transform_method == "moment":
            learned = self.moment_transfer * self.moment_mul
            learned = learned + self.moment_transfer.detach() * (1 - self.moment_mul)
            half_width, half_height = x.std(dim=1) * learned[0].exp(), y.std(dim=1) * learned[1].exp()
            x, y = x.mean(dim=1), y.mean(dim=1)
            return torch.stack((x - half_width, y - half_height, x + half_width, y + half_height), dim=1)
        if self.transform_method == "partial_minmax":
            y, x = y[:, :4], x[:, :4]
        return torch.stack((x.amin(dim=1), y.amin(dim=1), x.amax(dim=1), y.amax(dim=1)), dim=1)

    def grid_on(self, values: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B or 1, 4, h, w) moved by (B, 4, h, w) values: grids (B, 2 n, h, w) and the moved boxes."""
        centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
        new_size = size * values[:, 2:].exp()
        corner = centre + size * values[:, :2] - 0.5 * new_size
        steps = torch.linspace(0, 1, self.kernel, device=values.device, dtype=values.dtype)
        # (B, 2, kernel, h, w): x and y of the columns and rows of the grid
        places = corner[:, :, None] + new_size[:, :, None] * steps[None, None, :, None, None]
        x, y = places[:, 0], places[:, 1]
        shape = (x.shape[0], self.kernel, self.kernel, *x.shape[2:])
        grid = torch.stack((y[:, :, None].expand(shape), x[:, None].expand(shape)), dim=3)
        return grid.flatten(1, 3), torch.cat((corner, corner + new_size), dim=1)

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """L maps (B, C_in, h, w) give L logits (B, C, h, w) and L boxes (B, 4, h, w) in strides.

        In training, in the place of the boxes: the first and the refined points, (B, 2 n, h, w) each.
        """
        levels = [self._forward_level(x) for x in feats]
        scores, first, refined = (list(maps) for maps in zip(*levels, strict=True))
        return (scores, first, refined) if self.training else (scores, [self.box_of(m) for m in refined])

    def _forward_level(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, first points and refined points of one level."""
        positions = self.kernel_positions(x)
        cls_feat, pts_feat = self.towers(x)
        first = self.reppoints_pts_init_out(functional.relu(self.reppoints_pts_init_conv(pts_feat)))
        reach, first_boxes = self.point_base_scale / 2, None
        if self.use_grid_points:
            start = x.new_tensor((-reach, -reach, reach, reach)).reshape(1, 4, 1, 1)
            first, first_boxes = self.grid_on(first, start)
        elif not self.center_init:
            first = first + positions / positions.max() * reach
        # sampling teaches the first points only a little
        damped = (1 - self.gradient_mul) * first.detach() + self.gradient_mul * first
        offsets = damped - positions
        scores = self.reppoints_cls_out(functional.relu(self.reppoints_cls_conv(cls_feat, offsets)))
        moved = self.reppoints_pts_refine_out(
            functional.relu(self.reppoints_pts_refine_conv(pts_feat, offsets))
        )
        if first_boxes is not None:
            return scores, first, self.grid_on(moved, first_boxes.detach())[0]
        return scores, first, moved + first.detach()

    def loss(
        self, raw: tuple[list[Tensor], ...], targets: Sequence[Targets], metas: Sequence[ImageMeta]
    ) -> dict[str, Tensor]:
        """loss_cls, loss_pts_init and loss_pts_refine per positive cell, scalars; images may be empty."""
        if self.stages is None:
            raise RuntimeError("RepPointsHead was built without train_cfg and cannot compute a loss.")
        sizes = map_sizes(raw[0])
        logits = flatten_levels(raw[0], self.cls_out_channels).flatten(0, 1)
        levels = self.prior_generator.grid_priors(sizes, logits.device, with_stride=True)
        cells = torch.cat(levels)  # (P, 4) x, y and strides
        shift, unit = (
            cells[:, [0, 1, 0, 1]],
            level_values([len(p) for p in levels], self.point_strides, cells),
        )
        first, refined = (
            flatten_levels([self.box_of(m) for m in maps], 4) * unit[:, None] + shift for maps in raw[1:]
        )  # (B, P, 4) pixels
        stages = self.stages
        around = self._around(cells) if not isinstance(stages.init.assigner, PointAssigner) else cells
        found_first = self._assign(stages.init, sizes, around.expand(len(targets), -1, -1), targets, metas)
        found = self._assign(stages.refine, sizes, first.detach(), targets, metas)
        sampling = not isinstance(self.loss_cls, FocalLoss)
        losses = {}
        for name, boxes, own, measure in (
            ("loss_pts_init", first, found_first, self.loss_bbox_init),
            ("loss_pts_refine", refined, found, self.loss_bbox_refine),
        ):
            scale = self.point_base_scale * unit[own.pos_rows % len(unit)][:, None]
            wanted = own.pos_gt_boxes / scale
            count = own.num_pos + (own.num_neg if sampling else 0)
            losses[name] = measure(
                boxes.flatten(0, 1)[own.pos_rows] / scale, wanted, torch.ones_like(wanted), avg_factor=count
            )
        labels = found.labels(len(logits), self.num_classes)
        weights = found.weights(len(logits), stages.refine.pos_weight)
        count = found.num_pos + (found.num_neg if sampling else 0)
        return {"loss_cls": self.loss_cls(logits, labels, weights, avg_factor=count), **losses}

    def _around(self, cells: Tensor) -> Tensor:
        """Boxes (P, 4) of ``point_base_scale`` strides around (P, 4) cells."""
        reach = self.point_base_scale * cells[:, 2:] * 0.5
        return torch.cat((cells[:, :2] - reach, cells[:, :2] + reach), dim=1)

    def _assign(
        self,
        stage: RepPointsStageSpec,
        sizes: Sequence[tuple[int, int]],
        candidates: Tensor,
        targets: Sequence[Targets],
        metas: Sequence[ImageMeta],
    ) -> AnchorTargets:
        """Targets of one stage, whose assigner sees the (B, P, 4) candidates."""

        def assign(image: int, points: Tensor, rows: Tensor | None) -> Assignment:
            own = candidates[image] if rows is None else candidates[image, rows]
            return stage.assigner.assign(own, targets[image].boxes, targets[image].ignore_boxes)

        cells: Any = self.prior_generator  # in the place of anchors
        return anchor_targets(
            cells,
            sizes,
            targets,
            metas,
            assigner=stage.assigner,
            sampler=PseudoSampler(),
            allowed_border=-1,
            with_labels=True,
            assign=assign,
        )

    def select(self, raw: Any, metas: Sequence[ImageMeta], *, rescale: bool) -> list[Candidates]:
        """Candidates of B images; raw outputs of either mode."""
        boxes = raw[1] if len(raw) == 2 else [self.box_of(m) for m in raw[2]]
        return super().select((raw[0], boxes), metas, rescale=rescale)

    def decode_chosen(self, level: int, points: Tensor, values: Tensor, hw: tuple[int, int]) -> Tensor:
        """Boxes (K, 4), clipped to ``hw``, of K cells and their boxes in strides."""
        return clip(values * self.point_strides[level] + points[:, [0, 1, 0, 1]], hw)
