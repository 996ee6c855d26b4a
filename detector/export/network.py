"""What is exported: a network input in, the boxes of one image out; and what cannot be.

Shapes: H x W the fixed network input, N detections.
Boxes: xyxy, pixels of the network input.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from detector.errors import ConfigError
from detector.layers.deform_conv import DeformConv2dPack, ModulatedDeformConv2dPack
from detector.layers.sac import SAConv2d
from detector.models.detectors.single_stage import SingleStageDetector
from detector.models.detectors.two_stage import RPN, TwoStageDetector
from detector.structures.samples import Batch, Detections, ImageMeta

FORMATS = ("onnx", "torchscript")
OUTPUTS = ("boxes", "scores", "labels")
_DEFORMABLE = (DeformConv2dPack, ModulatedDeformConv2dPack, SAConv2d)


class BoxNetwork(nn.Module):
    """A detector from its network input to its boxes, for one image of a fixed size.

    Args:
        model: detector in eval mode.
        input_hw: (H, W).
    """

    def __init__(self, model: nn.Module, input_hw: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self.meta = ImageMeta(ori_hw=input_hw, input_hw=input_hw, pad_hw=input_hw)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1, 3, H, W) float32, normalised, gives boxes (N, 4), scores (N,) and labels (N,) int64."""
        found = self.detect(images)
        return found.boxes, found.scores, found.labels

    def detect(self, images: Tensor) -> Detections:
        """Detections of (1, 3, H, W), best first, in pixels of the input."""
        batch = Batch(images=images, metas=[self.meta])
        # the class's own method: a model of init_detector has another one of this name
        found: list[Detections] = cast(Any, type(self.model)).predict(self.model, batch, rescale=False)
        return found[0]


def prepared(model: nn.Module, form: str, *, boxes_only: bool = False) -> nn.Module:
    """The model, without its mask head if that is asked for, if it can be exported.

    Args:
        model: detector in eval mode; changed in place: it has no gradients any more, and perhaps no masks.
        form: one of ``FORMATS``.
        boxes_only: leave masks out.

    Raises:
        ConfigError: it cannot, saying what stands against it.
    """
    if form not in FORMATS:
        raise ConfigError(f"--format: found {form!r}; expected {' or '.join(FORMATS)}.")
    kind = type(model)
    if not issubclass(kind, SingleStageDetector | TwoStageDetector | RPN):
        raise ConfigError(
            f"export: found a {kind.__name__}; expected a single-stage or two-stage detector of boxes. Other "
            "kinds have no exporter."
        )
    parts = cast(Any, model)
    if boxes_only and parts.with_mask:
        parts.roi_head.mask_head = None
    if parts.with_mask:
        raise ConfigError(
            "export: found a mask head; expected a model of boxes, as masks are pasted and encoded outside "
            "of the network. Give --boxes-only to leave the masks out."
        )
    _refuse_parts(model, form)
    return model.requires_grad_(False)  # its weights become constants of the file


def _refuse_parts(model: nn.Module, form: str) -> None:
    """Raise ConfigError for layers and settings that the format has no operator for."""
    deformable = next((name for name, part in model.named_modules() if isinstance(part, _DEFORMABLE)), None)
    if form == "onnx" and deformable is not None:
        raise ConfigError(
            f"export: {deformable} is a deformable convolution, which torch's ONNX exporter has no operator "
            "for; expected plain convolutions. Use --format torchscript."
        )
    for name, part in model.named_modules():
        spec = getattr(getattr(part, "test_cfg", None), "nms", None)
        if getattr(spec, "type", None) == "soft_nms":
            raise ConfigError(
                f"export: {name}.test_cfg.nms is soft_nms, a loop whose length depends on the image; "
                "expected type='nms'. Override it in the config, which changes the detections."
            )


def example_input(hw: tuple[int, int], seed: int) -> Tensor:
    """A normalised image (1, 3, H, W): smooth blobs and grain."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, hw[0] // 32 + 2, hw[1] // 32 + 2, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=hw, mode="bilinear", align_corners=False)
    return smooth + 0.2 * torch.randn(1, 3, *hw, generator=generator)
