"""SOLOv2: every cell of a grid predicts a class and the convolution that finds its mask in a shared map.

Shapes: B images, L levels with grids of S_l x S_l cells, C classes, E channels of the shared map, D = E *
k * k weights of one kernel, K chosen cells.
Boxes: xyxy, pixels of the padded network input (ground truth only); detections carry zeros.
Paper: Wang et al., "SOLOv2: Dynamic and Fast Instance Segmentation", NeurIPS 2020, arXiv:2003.10152.
Attribute names are the checkpoint format (MMDetection 2.28, models/dense_heads/solov2_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.errors import ConfigError
from detector.layers.conv import ConvModule
from detector.layers.init import apply_rules
from detector.models.dense_heads.solo import (
    MASK_STRIDE,
    SOLOHead,
    coordinates,
    peaks,
    prior_init,
    resize,
    shrink_masks,
)
from detector.structures.samples import Detections, ImageMeta, Targets
from detector.structures.specs import ConvSpec, InitSpec, NormSpec, Spec

NORMAL_CONV = InitSpec(type="Normal", layer="Conv2d", std=0.01)


@dataclass(frozen=True)
class MaskFeatureSpec(Spec):
    """The shared map.

    Attributes:
        feat_channels: channels of hidden convolutions.
        start_level: first feature map used.
        end_level: last feature map used.
        out_channels: channels E.
        mask_stride: pixels between positions; must be 4.
        in_channels: accepted for the dialect; the head's own count.
        conv_cfg: kind of convolution.
        norm_cfg: kind of norm.
        init_cfg: rules for the initial values.
    """

    feat_channels: int
    start_level: int
    end_level: int
    out_channels: int
    mask_stride: int = MASK_STRIDE
    in_channels: int | None = None
    conv_cfg: ConvSpec | None = None
    norm_cfg: NormSpec | None = None
    init_cfg: InitSpec | list[InitSpec] | None = None

    def __post_init__(self) -> None:
        """Refuse another stride.

        Raises:
            ConfigError: the levels are not in order, or the stride is not 4.
        """
        if not 0 <= self.start_level <= self.end_level or self.mask_stride != MASK_STRIDE:
            raise ConfigError(
                f"mask_feature_head: found levels {self.start_level} to {self.end_level} and mask_stride "
                f"{self.mask_stride}; expected levels in order and a stride of {MASK_STRIDE}."
            )


class MaskFeatModule(nn.Module):
    """Sum of the feature maps, each grown to the size of the first by steps of two."""

    def __init__(self, spec: MaskFeatureSpec, in_channels: int) -> None:
        """``in_channels`` are the channels of the feature maps."""
        super().__init__()
        self.first, self.last, self.init_cfg = spec.start_level, spec.end_level, spec.init_cfg or NORMAL_CONV
        self.convs_all_levels = nn.ModuleList()
        for level in range(self.first, self.last + 1):
            steps = nn.Sequential()
            for j in range(max(level, 1)):
                width = in_channels + (2 if 0 < level == self.last else 0) if j == 0 else spec.feat_channels
                conv = ConvModule(
                    width,
                    spec.feat_channels,
                    3,
                    padding=1,
                    conv_cfg=spec.conv_cfg,
                    norm_cfg=spec.norm_cfg,
                    inplace=False,
                )
                steps.add_module(f"conv{j}", conv)
                if level > 0:
                    steps.add_module(
                        f"upsample{j}", nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
                    )
            self.convs_all_levels.append(steps)
        self.conv_pred = ConvModule(
            spec.feat_channels, spec.out_channels, 1, conv_cfg=spec.conv_cfg, norm_cfg=spec.norm_cfg
        )

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """L maps give one (B, E, h, w); the coarsest map used also gets coordinates."""
        maps = []
        for i, (convs, level) in enumerate(
            zip(self.convs_all_levels, range(self.first, self.last + 1), strict=True)
        ):
            x = feats[level]
            if i > 0 and level == self.last:
                x = torch.cat((x, coordinates(x)), dim=1)
            maps.append(convs(x))
        total = maps[0]
        for x in maps[1:]:
            total = total + x
        return self.conv_pred(total)


class SOLOV2Head(SOLOHead):
    """A kernel per cell, on one shared map."""

    def __init__(
        self,
        *,
        mask_feature_head: MaskFeatureSpec,
        dynamic_conv_size: int = 1,
        dcn_cfg: ConvSpec | None = None,
        dcn_apply_to_all_conv: bool = True,
        **kwargs: Any,
    ) -> None:
        """Take the arguments of ``SOLOHead`` and those of the kernels.

        Args:
            mask_feature_head: the shared map.
            dynamic_conv_size: side k of a kernel.
            dcn_cfg: kind of hidden convolutions.
            dcn_apply_to_all_conv: of all hidden convolutions, or of the last one only.
            **kwargs: as in ``SOLOHead``.
        """
        self.dcn_cfg, self.dcn_apply_to_all_conv = dcn_cfg, dcn_apply_to_all_conv
        self.dynamic_conv_size = dynamic_conv_size
        self.kernel_out_channels = mask_feature_head.out_channels * dynamic_conv_size**2
        super().__init__(**kwargs)
        self.mask_feature_head = MaskFeatModule(mask_feature_head, self.in_channels)

    @staticmethod
    def default_init() -> list[InitSpec]:
        """Rules where the config has none."""
        return prior_init("conv_cls")

    def _make_layers(self) -> None:
        """Add the layers under the names of the checkpoint format."""
        early = self.dcn_cfg if self.dcn_apply_to_all_conv else None
        kinds = [early] * (self.stacked_convs - 1) + [self.dcn_cfg]
        self.cls_convs, self.kernel_convs = self.tower(0, kinds), self.tower(2, kinds)
        self.conv_kernel = nn.Conv2d(self.feat_channels, self.kernel_out_channels, 3, padding=1)

    def init_weights(self) -> None:
        """As SOLO; the shared map has rules of its own."""
        super().init_weights()
        apply_rules(self.mask_feature_head, self.mask_feature_head.init_cfg)

    def forward(self, feats: Sequence[Tensor]) -> tuple[Any, ...]:
        """L maps give L kernel maps (B, D, S, S), logits (B, C, S, S) and the shared map (B, E, h, w)."""
        shared = self.mask_feature_head(feats)
        kernels, scores = [], []
        for x, grid in zip(self.resize_feats(feats), self.num_grids, strict=True):
            x = resize(torch.cat((x, coordinates(x)), dim=1), (grid, grid))
            y = x[:, :-2]
            for conv in self.kernel_convs:
                x = conv(x)
            kernels.append(self.conv_kernel(x))
            for conv in self.cls_convs:
                y = conv(y)
            scores.append(self.conv_cls(y))
        return kernels, scores, shared

    def _filtered(self, shared: Tensor, kernels: Tensor) -> Tensor:
        """Logits (K, h, w) of (D, K) kernels on one image's map (E, h, w)."""
        k = self.dynamic_conv_size
        if not kernels.shape[1]:
            return shared[:0]
        return functional.conv2d(shared[None], kernels.T.reshape(kernels.shape[1], -1, k, k))[0]

    def loss(self, raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta]) -> dict[str, Tensor]:
        """loss_mask and loss_cls, scalars; a cell is trained for every object that claims it."""
        kernels, scores, shared = raw
        shared = shared.float()
        hw = (shared.shape[-2], shared.shape[-1])
        input_hw = (hw[0] * MASK_STRIDE, hw[1] * MASK_STRIDE)
        grids = [self.grid_targets(target, input_hw) for target in targets]
        wanted = []
        for target in targets:
            assert target.masks is not None
            wanted.append(shrink_masks(target.masks, MASK_STRIDE, hw))
        pairs = []
        for level, maps in enumerate(kernels):
            parts = [
                (
                    self._filtered(shared[b], maps[b].float().flatten(1)[:, image[level].cells]),
                    wanted[b][image[level].objects],
                )
                for b, image in enumerate(grids)
            ]
            pairs.append((torch.cat([own for own, _ in parts]), torch.cat([goal for _, goal in parts])))
        num_pos = sum(int((level.owner >= 0).sum()) for image in grids for level in image)
        losses = self._losses(pairs, num_pos, scores, grids)
        if num_pos == 0:  # keep every parameter in the graph
            unused = shared.sum() + torch.stack([maps.float().sum() for maps in kernels]).sum()
            losses["loss_mask"] = losses["loss_mask"] + unused * 0
        return losses

    @torch.no_grad()
    def predict(self, raw: Any, metas: Sequence[ImageMeta], *, rescale: bool) -> list[Detections]:
        """Masks of B images, best first."""
        kernels, scores, shared = raw
        found = [peaks(level.float().sigmoid()) for level in scores]
        results = []
        for b, meta in enumerate(metas):

            def masks_of(cells: Tensor, level: int, b: int = b) -> Tensor:
                chosen = kernels[level][b].float().flatten(1)[:, cells]
                return self._filtered(shared[b].float(), chosen).sigmoid()

            results.append(self._detect([s[b] for s in found], masks_of, meta, rescale=rescale))
        return results
