"""Box head of SCNet: its shared features go on to the masks.

Shapes: K regions, C classes, P bins per side.
Paper: Vu et al., AAAI 2021, arXiv:2012.10150. Attribute names are the checkpoint format (MMDetection 2.28,
bbox_heads/scnet_bbox_head.py).
"""

from __future__ import annotations

from torch import Tensor

from detector.models.roi_heads.bbox_heads.convfc import ConvFCBBoxHead


class SCNetBBoxHead(ConvFCBBoxHead):
    """``ConvFCBBoxHead`` that also tells what its branches share."""

    def forward_with_shared(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """(K, in_channels, P, P) gives logits, deltas and the shared features (K, fc_out_channels)."""
        shared = self.shared(x)
        return *self.separate(shared), shared
