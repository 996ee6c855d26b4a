"""SOLO: every cell of a grid over the image predicts a class and the mask of the object centred there.

Shapes: B images, L levels with grids of S_l x S_l cells, P cells of all levels, C classes, G objects of
one image, K chosen cells.
Boxes: xyxy, pixels of the padded network input (ground truth only); detections carry zeros.
Paper: Wang et al., "SOLO: Segmenting Objects by Locations", ECCV 2020, arXiv:1912.04488.
Attribute names are the checkpoint format (MMDetection 2.28, models/dense_heads/solo_head.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torch.nn import functional

from detector.errors import ConfigError
from detector.layers.conv import ConvModule
from detector.layers.init import InitRules, apply_rules, init_conv_modules
from detector.models.dense_heads.dense_head import DenseHead
from detector.ops.matrix_nms import matrix_nms
from detector.structures.samples import Detections, ImageMeta, Rle, Targets
from detector.structures.specs import ConvSpec, InitSpec, NormSpec, Spec

GROUP_NORM = NormSpec(type="GN", num_groups=32)
# masks are predicted at a quarter of the input
MASK_STRIDE = 4


def prior_init(*names: str) -> list[InitSpec]:
    """Normal convolutions of std 0.01; the named children start at a probability of 0.01."""
    named = [InitSpec(type="Normal", std=0.01, bias_prob=0.01, override={"name": name}) for name in names]
    return [InitSpec(type="Normal", layer="Conv2d", std=0.01), *named]


@dataclass(frozen=True)
class SOLOTrainSpec(Spec):
    """Nothing to set: the head itself says how cells become targets."""


@dataclass(frozen=True)
class SOLOTestSpec(Spec):
    """How cells become detections.

    Attributes:
        nms_pre: most masks that enter suppression.
        score_thr: class scores must exceed it.
        mask_thr: pixels above it belong to a mask.
        filter_thr: least score after suppression.
        kernel: gaussian or linear decay.
        sigma: strength of the gaussian decay.
        max_per_img: most detections of an image.
    """

    nms_pre: int = 500
    score_thr: float = 0.1
    mask_thr: float = 0.5
    filter_thr: float = 0.05
    kernel: str = "gaussian"
    sigma: float = 2.0
    max_per_img: int = 100


@dataclass(frozen=True)
class GridTargets:
    """What the cells of one level of one image stand for.

    Attributes:
        labels: (S * S,) int64, C for background.
        cells: (K,) int64 positive cells, object by object; a cell appears once for each object that claims
        it. objects: (K,) int64 rows of the ground truth.
        owner: (S * S,) int64 the last object that claims a cell, -1 for none.
    """

    labels: Tensor
    cells: Tensor
    objects: Tensor
    owner: Tensor


def coordinates(like: Tensor) -> Tensor:
    """X and y of every position from -1 to 1: (B, 2, h, w) for a map (B, C, h, w)."""
    batch, _, h, w = like.shape
    y = torch.linspace(-1, 1, h, device=like.device)
    x = torch.linspace(-1, 1, w, device=like.device)
    plane = torch.stack((x[None].expand(h, w), y[:, None].expand(h, w)))
    return plane.to(like).expand(batch, -1, -1, -1)


def peaks(scores: Tensor) -> Tensor:
    """Zero every score of (B, C, S, S) that its left, upper or upper left neighbour exceeds."""
    best = functional.max_pool2d(scores, 2, stride=1, padding=1)[:, :, :-1, :-1]
    return scores * (best == scores)


def resize(x: Tensor, size: int | tuple[int, int] | Sequence[int]) -> Tensor:
    """Bilinear (B, C, h, w) at another size."""
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def shrink_masks(masks: Tensor, stride: float, hw: tuple[int, int]) -> Tensor:
    """(K, H, W) masks of 0 and 1 at a fraction of their size, laid on (K, h, w) zeros; halves count as 1."""
    size = tuple(int(side / stride + 0.5) for side in masks.shape[-2:])
    small = resize(masks[:, None].float(), size)[:, 0] >= 0.5
    canvas = torch.zeros((len(masks), *hw), dtype=torch.bool, device=masks.device)
    rows, columns = min(hw[0], size[0]), min(hw[1], size[1])
    canvas[:, :rows, :columns] = small[:, :rows, :columns]
    return canvas


class SOLOHead(DenseHead):
    """A mask map per cell. In eval mode ``forward`` gives probabilities, in train mode logits."""

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        loss_mask: nn.Module,
        loss_cls: nn.Module,
        feat_channels: int = 256,
        stacked_convs: int = 4,
        strides: Sequence[int] = (4, 8, 16, 32, 64),
        scale_ranges: Sequence[Sequence[float]] = ((8, 32), (16, 64), (32, 128), (64, 256), (128, 512)),
        pos_scale: float = 0.2,
        num_grids: Sequence[int] = (40, 36, 24, 16, 12),
        cls_down_index: int = 0,
        norm_cfg: NormSpec | None = GROUP_NORM,
        train_cfg: SOLOTrainSpec | None = None,
        test_cfg: SOLOTestSpec | None = None,
        init_cfg: InitRules = None,
    ) -> None:
        """Describe the head.

        Args:
            num_classes: classes without background.
            in_channels: channels of the feature maps.
            loss_mask: loss of the masks of positive cells.
            loss_cls: class loss of all cells.
            feat_channels: channels of hidden convolutions.
            stacked_convs: hidden convolutions of each branch.
            strides: pixels between positions of each level; masks of fewer pixels than this are dropped.
            scale_ranges: square root of the box areas in pixels that a level takes, both ends included.
            pos_scale: side of the region of positive cells, as a share of the box.
            num_grids: cells per side of each level.
            cls_down_index: class convolution before which the map is resized to the grid.
            norm_cfg: kind of norm.
            train_cfg: nothing.
            test_cfg: which detections to keep.
            init_cfg: rules for the initial values.

        Raises:
            ConfigError: the levels of the settings differ in number.
        """
        super().__init__()
        if not len(strides) == len(scale_ranges) == len(num_grids):
            raise ConfigError(
                f"{type(self).__name__}: found {len(strides)} strides, {len(scale_ranges)} scale_ranges and "
                f"{len(num_grids)} num_grids; expected equal numbers."
            )
        self.num_classes, self.in_channels, self.feat_channels = num_classes, in_channels, feat_channels
        self.stacked_convs, self.strides, self.num_grids = stacked_convs, tuple(strides), tuple(num_grids)
        self.scale_ranges, self.pos_scale = [tuple(r) for r in scale_ranges], pos_scale
        self.cls_down_index, self.norm_cfg = cls_down_index, norm_cfg
        self.loss_mask, self.loss_cls = loss_mask, loss_cls
        self.train_cfg, self.test_cfg = train_cfg, test_cfg or SOLOTestSpec()
        self.init_cfg = self.default_init() if init_cfg is None else init_cfg
        self.conv_cls = nn.Conv2d(feat_channels, num_classes, 3, padding=1)
        self._make_layers()

    @staticmethod
    def default_init() -> list[InitSpec]:
        """Rules where the config has none."""
        return prior_init("conv_mask_list", "conv_cls")

    def tower(self, extra: int, conv_cfg: Sequence[ConvSpec | None] | None = None) -> nn.ModuleList:
        """Hidden convolutions on the feature channels and ``extra`` ones."""
        kinds = conv_cfg or [None] * self.stacked_convs
        widths = [self.in_channels + extra] + [self.feat_channels] * self.stacked_convs
        return nn.ModuleList(
            ConvModule(width, self.feat_channels, 3, padding=1, conv_cfg=kinds[i], norm_cfg=self.norm_cfg)
            for i, width in enumerate(widths[:-1])
        )

    def _make_layers(self) -> None:
        """Add the layers under the names of the checkpoint format."""
        self.mask_convs, self.cls_convs = self.tower(2), self.tower(0)
        self.conv_mask_list = nn.ModuleList(nn.Conv2d(self.feat_channels, n * n, 1) for n in self.num_grids)

    def init_weights(self) -> None:
        """Normal convolutions; classes and masks start unlikely, unless ``init_cfg`` says otherwise."""
        init_conv_modules(self)
        apply_rules(self, self.init_cfg)

    @staticmethod
    def resize_feats(feats: Sequence[Tensor]) -> list[Tensor]:
        """The finest and the coarsest map at the size of their neighbours."""
        return [
            resize(feats[0], feats[1].shape[-2:]),
            *feats[1:-1],
            resize(feats[-1], feats[-2].shape[-2:]),
        ]

    def mask_maps(self, x: Tensor, level: int) -> tuple[Tensor, ...]:
        """Mask logits of one level: (B, C_in, h, w) gives maps at twice the size."""
        x = torch.cat((x, coordinates(x)), dim=1)
        for conv in self.mask_convs:
            x = conv(x)
        x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return (self.conv_mask_list[level](x),)

    def class_map(self, x: Tensor, level: int) -> Tensor:
        """Class logits (B, C, S, S) of one level."""
        for i, conv in enumerate(self.cls_convs):
            if i == self.cls_down_index:
                x = resize(x, (self.num_grids[level],) * 2)
            x = conv(x)
        return self.conv_cls(x)

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """L maps (B, C_in, h, w) give lists of L mask maps, and L class maps (B, C, S, S).

        In eval mode masks are probabilities at a quarter of the input, and only peaks of the class
        probabilities are not 0.
        """
        feats = self.resize_feats(feats)
        size = (feats[0].shape[-2] * 2, feats[0].shape[-1] * 2)
        levels = []
        for i, x in enumerate(feats):
            maps, scores = self.mask_maps(x, i), self.class_map(x, i)
            if not self.training:
                maps, scores = tuple(resize(m.sigmoid(), size) for m in maps), peaks(scores.sigmoid())
            levels.append((*maps, scores))
        return tuple(list(parts) for parts in zip(*levels, strict=True))

    def grid_targets(self, target: Targets, input_hw: tuple[int, int]) -> list[GridTargets]:
        """Cells of the L levels for objects whose centre of mass lies near; ``input_hw`` is the padded size.

        Objects with an empty mask take no part.
        """
        assert target.masks is not None, "SOLO needs masks"
        boxes, masks = target.boxes, target.masks > 0
        area = masks.flatten(1).sum(dim=1).float()
        ys = torch.arange(masks.shape[1], device=masks.device)
        xs = torch.arange(masks.shape[2], device=masks.device)
        centre = torch.stack(((masks.sum(dim=2) * ys).sum(dim=1), (masks.sum(dim=1) * xs).sum(dim=1)), dim=1)
        centre = centre / area[:, None].clamp(min=1e-6)
        sides = boxes[:, 2:] - boxes[:, :2]
        reach = 0.5 * sides.flip(1) * self.pos_scale
        scale = (sides[:, 0] * sides[:, 1]).sqrt()
        size = boxes.new_tensor(input_hw)
        levels = []
        for (low, high), grid in zip(self.scale_ranges, self.num_grids, strict=True):
            corners = [
                torch.div(place / size, 1.0 / grid, rounding_mode="trunc").long()
                for place in (centre, centre - reach, centre + reach)
            ]
            first = torch.maximum(corners[1].clamp(min=0), corners[0] - 1)
            last = torch.minimum(corners[2].clamp(max=grid - 1), corners[0] + 1)
            chosen = torch.nonzero((scale >= low) & (scale <= high) & (area > 0)).flatten()
            levels.append(self._claimed(chosen, first, last, target.labels, grid))
        return levels

    def _claimed(self, chosen: Tensor, first: Tensor, last: Tensor, labels: Tensor, grid: int) -> GridTargets:
        """Cells from ``first`` to ``last`` (row, column) of the chosen objects."""
        device = labels.device
        owner = torch.full((grid * grid,), -1, dtype=torch.long, device=device)
        index = torch.arange(grid * grid, device=device).reshape(grid, grid)
        cells, objects = [owner[:0]], [owner[:0]]
        for i in chosen.tolist():
            (top, left), (bottom, right) = first[i].tolist(), last[i].tolist()
            own = index[top : bottom + 1, left : right + 1].flatten()
            owner[own] = i
            cells.append(own)
            objects.append(torch.full_like(own, i))
        wanted = torch.full_like(owner, self.num_classes)
        wanted[owner >= 0] = labels[owner[owner >= 0]]
        return GridTargets(wanted, torch.cat(cells), torch.cat(objects), owner)

    def object_masks(self, maps: Sequence[Tensor], cells: Tensor, level: int) -> Tensor:
        """Masks (K, h, w) of cells, as the mask loss takes them, from one image's maps of one level."""
        return maps[0][cells]

    def loss(self, raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta]) -> dict[str, Tensor]:
        """loss_mask and loss_cls, scalars over the batch."""
        *maps, scores = raw
        input_hw = (maps[0][0].shape[-2] * MASK_STRIDE, maps[0][0].shape[-1] * MASK_STRIDE)
        grids = [self.grid_targets(target, input_hw) for target in targets]
        pairs = []
        for level, stride in enumerate(self.strides):
            own, wanted = [], []
            for b, target in enumerate(targets):
                owner = grids[b][level].owner
                cells = torch.nonzero(owner >= 0).flatten()
                predicted = self.object_masks([m[level][b] for m in maps], cells, level)
                own.append(predicted)
                assert target.masks is not None
                hw = (predicted.shape[-2], predicted.shape[-1])
                wanted.append(shrink_masks(target.masks, stride / 2, hw)[owner[cells]])
            pairs.append((torch.cat(own), torch.cat(wanted)))
        return self._losses(pairs, sum(len(own) for own, _ in pairs), scores, grids)

    def _losses(
        self,
        pairs: Sequence[tuple[Tensor, Tensor]],
        num_pos: int,
        scores: Sequence[Tensor],
        grids: Sequence[Sequence[GridTargets]],
    ) -> dict[str, Tensor]:
        """Mask loss of (predicted, wanted) masks of the levels, class loss of L maps (B, C, S, S)."""
        losses = [
            self.loss_mask(own.float(), wanted, avg_factor=max(num_pos, 1)) if len(own) else own.sum()
            for own, wanted in pairs
        ]
        logits = torch.cat(
            [level.permute(0, 2, 3, 1).reshape(-1, self.num_classes).float() for level in scores]
        )
        labels = torch.cat([image[i].labels for i in range(len(scores)) for image in grids])
        return {
            "loss_mask": torch.stack(losses).sum(),
            "loss_cls": self.loss_cls(logits, labels, avg_factor=num_pos + 1),
        }

    @torch.no_grad()
    def predict(self, raw: Any, metas: Sequence[ImageMeta], *, rescale: bool) -> list[Detections]:
        """Masks of B images, best first; ``raw`` must come from eval mode."""
        *maps, scores = raw
        results = []
        for b, meta in enumerate(metas):

            def masks_of(cells: Tensor, level: int, b: int = b) -> Tensor:
                return self.object_masks([m[level][b] for m in maps], cells, level)

            results.append(self._detect([s[b] for s in scores], masks_of, meta, rescale=rescale))
        return results

    def _detect(
        self,
        scores: Sequence[Tensor],
        masks_of: Callable[[Tensor, int], Tensor],
        meta: ImageMeta,
        *,
        rescale: bool,
    ) -> Detections:
        """Detections of one image from L maps (C, S, S) of probabilities and the masks (K, h, w) of cells."""
        spec = self.test_cfg
        masks, values, labels, smallest = [], [], [], []
        for level, level_scores in enumerate(scores):
            flat = level_scores.float().flatten(1).T
            cells, classes = torch.nonzero(flat > spec.score_thr, as_tuple=True)
            masks.append(masks_of(cells, level).float())
            values.append(flat[cells, classes])
            labels.append(classes)
            smallest.append(torch.full_like(values[-1], float(self.strides[level])))
        soft, score, label = torch.cat(masks), torch.cat(values), torch.cat(labels)
        hard = soft > spec.mask_thr
        area = hard.flatten(1).sum(dim=1).float()
        keep = area > torch.cat(smallest)
        soft, hard, score, label = soft[keep], hard[keep], score[keep], label[keep]
        score = score * ((soft * hard).flatten(1).sum(dim=1) / area[keep])
        rows, score = matrix_nms(
            hard,
            label,
            score,
            kernel=spec.kernel,
            sigma=spec.sigma,
            filter_thr=spec.filter_thr,
            nms_pre=spec.nms_pre,
            max_num=spec.max_per_img,
        )
        encoded = [self._encode(mask, meta, rescale=rescale) for mask in soft[rows]]
        return Detections(
            boxes=score.new_zeros(len(rows), 4), scores=score, labels=label[rows], masks=encoded
        )

    def _encode(self, mask: Tensor, meta: ImageMeta, *, rescale: bool) -> Rle:
        """One (h, w) probability mask at a quarter of the input as an encoded mask of the image."""
        size = (mask.shape[0] * MASK_STRIDE, mask.shape[1] * MASK_STRIDE)
        grown = resize(mask[None, None], size)[:, :, : meta.input_hw[0], : meta.input_hw[1]]
        if rescale:
            grown = resize(grown, meta.ori_hw)
        binary = (grown[0, 0] > self.test_cfg.mask_thr).to(torch.uint8).cpu().numpy()
        return coco_mask.encode(np.asfortranarray(binary))


class DecoupledSOLOHead(SOLOHead):
    """A cell's mask is the product of a map for its column and one for its row."""

    @staticmethod
    def default_init() -> list[InitSpec]:
        """Rules where the config has none."""
        return prior_init("conv_mask_list_x", "conv_mask_list_y", "conv_cls")

    def _make_layers(self) -> None:
        """Add the layers under the names of the checkpoint format."""
        self.mask_convs_x, self.mask_convs_y, self.cls_convs = self.tower(1), self.tower(1), self.tower(0)
        self._make_mask_layers()

    def _make_mask_layers(self) -> None:
        self.conv_mask_list_x, self.conv_mask_list_y = (
            nn.ModuleList(nn.Conv2d(self.feat_channels, n, 3, padding=1) for n in self.num_grids)
            for _ in range(2)
        )

    def mask_maps(self, x: Tensor, level: int) -> tuple[Tensor, ...]:
        """Column and row logits of one level: (B, C_in, h, w) gives two maps (B, S, 2 h, 2 w)."""
        places = coordinates(x)
        maps = []
        for axis, (convs, last) in enumerate(
            ((self.mask_convs_x, self.conv_mask_list_x), (self.mask_convs_y, self.conv_mask_list_y))
        ):
            y = torch.cat((x, places[:, axis : axis + 1]), dim=1)
            for conv in convs:
                y = conv(y)
            y = functional.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
            maps.append(last[level](y))
        return tuple(maps)

    def object_masks(self, maps: Sequence[Tensor], cells: Tensor, level: int) -> Tensor:
        """Probabilities (K, h, w) of cells."""
        grid = self.num_grids[level]
        columns, rows = maps[0][cells % grid], maps[1][cells // grid]
        return rows.sigmoid() * columns.sigmoid() if self.training else columns * rows


class DecoupledSOLOLightHead(DecoupledSOLOHead):
    """Both maps come from one tower."""

    def __init__(self, *, dcn_cfg: ConvSpec | None = None, **kwargs: Any) -> None:
        """Take the arguments of ``SOLOHead``; ``dcn_cfg`` is the kind of the last hidden convolutions."""
        self.dcn_cfg = dcn_cfg
        super().__init__(**kwargs)

    def _make_layers(self) -> None:
        """Add the layers under the names of the checkpoint format."""
        kinds = [None] * (self.stacked_convs - 1) + [self.dcn_cfg]
        self.mask_convs, self.cls_convs = self.tower(2, kinds), self.tower(0, kinds)
        self._make_mask_layers()

    def mask_maps(self, x: Tensor, level: int) -> tuple[Tensor, ...]:
        """Column and row logits of one level: (B, C_in, h, w) gives two maps (B, S, 2 h, 2 w)."""
        x = torch.cat((x, coordinates(x)), dim=1)
        for conv in self.mask_convs:
            x = conv(x)
        x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self.conv_mask_list_x[level](x), self.conv_mask_list_y[level](x)
