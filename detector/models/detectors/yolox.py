"""YOLOX: one stage, with the batch resized in training.

Shapes: B images of H x W.
Boxes: xyxy, pixels of the padded network input.
Paper: Ge et al., 2021, arXiv:2107.08430. Checked against mmdet 2.28.2 models/detectors/yolox.py;
attribute names are the checkpoint format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.layers.init import InitRules
from detector.models.dense_heads.dense_head import DenseHead
from detector.models.detectors.single_stage import SingleStageDetector
from detector.structures.samples import Batch


class YOLOX(SingleStageDetector):
    """Single stage detector whose training images change size every few iterations."""

    def __init__(
        self,
        *,
        backbone: nn.Module,
        bbox_head: DenseHead,
        neck: nn.Module | None = None,
        input_size: Sequence[int] = (640, 640),
        size_multiplier: int = 32,
        random_size_range: Sequence[int] = (15, 25),
        random_size_interval: int = 10,
        init_cfg: InitRules = None,
    ) -> None:
        """Take built parts.

        Args:
            backbone: gives the maps.
            bbox_head: the head.
            neck: between the two.
            input_size: (height, width) of the training images as the pipeline makes them.
            size_multiplier: drawn sizes are multiples of this, in pixels.
            random_size_range: least and largest multiple of the height, both included.
            random_size_interval: iterations between draws.
            init_cfg: rules for the whole model.
        """
        super().__init__(backbone=backbone, bbox_head=bbox_head, neck=neck, init_cfg=init_cfg)
        self.input_size, self.size_multiplier = (int(input_size[0]), int(input_size[1])), size_multiplier
        self.random_size_range = (int(random_size_range[0]), int(random_size_range[1]))
        self.random_size_interval = random_size_interval
        self.iteration = 0

    def set_progress(self, *, epoch: int, iteration: int) -> None:
        """Say which iteration of the run comes next, counted from 0; without it the calls are counted."""
        self.iteration = iteration

    def training_size(self, iteration: int) -> tuple[int, int]:
        """(height, width) that images of ``input_size`` get in an iteration.

        It depends on the iteration alone, so that all processes and a resumed run agree.
        """
        draw = iteration // self.random_size_interval
        if draw == 0:
            return self.input_size
        low, high = self.random_size_range
        generator = torch.Generator().manual_seed(draw)
        rows = int(torch.randint(low, high + 1, (1,), generator=generator))
        columns = int(self.input_size[1] / self.input_size[0] * rows)
        return self.size_multiplier * rows, self.size_multiplier * columns

    def resize(self, batch: Batch, size: tuple[int, int]) -> Batch:
        """The batch, boxes included, scaled by ``size`` over ``input_size``."""
        scale_y, scale_x = size[0] / self.input_size[0], size[1] / self.input_size[1]
        if scale_y == 1 and scale_x == 1:
            return batch
        height, width = batch.images.shape[-2:]
        shape = (round(height * scale_y), round(width * scale_x))
        images = functional.interpolate(batch.images, size=shape, mode="bilinear", align_corners=False)
        factors = images.new_tensor((scale_x, scale_y, scale_x, scale_y))
        targets = [
            replace(t, boxes=t.boxes * factors, ignore_boxes=t.ignore_boxes * factors)
            for t in batch.targets or ()
        ]
        return Batch(images=images, metas=batch.metas, targets=targets)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars by the head's names, at the size of this iteration."""
        losses = super().loss(self.resize(batch, self.training_size(self.iteration)))
        self.iteration += 1
        return losses
