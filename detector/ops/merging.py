"""One answer from what a model says of several views of an image.

Shapes: V views, n proposals of one view, K regions, C classes, M mask pixels per side.
Boxes: xyxy, pixels of the view they come from, or of the original image where said; no +1.
Source: the rules of mmdet 2.28.2 core/post_processing/merge_augs.py, of which no numbers are recorded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import nms

from detector.structures.samples import ImageMeta
from detector.structures.views import boxes_from_view, masks_from_view


def merge_proposals(
    proposals: Sequence[Tensor], metas: Sequence[ImageMeta], *, iou_threshold: float, max_num: int
) -> Tensor:
    """The best of the proposals of all views.

    Boxes suppress each other whatever level or view they come from.

    Args:
        proposals: V tensors (n, 5), box in pixels of the view and score; n may be 0.
        metas: of the V views.
        iou_threshold: boxes that overlap a better one by more are dropped.
        max_num: most to keep; not above 0 keeps all.

    Returns:
        (K, 5), box in original pixels and score, best first.
    """
    boxes = torch.cat([boxes_from_view(p[:, :4], meta) for p, meta in zip(proposals, metas, strict=True)])
    scores = torch.cat([p[:, 4] for p in proposals])
    kept = nms(boxes, scores, iou_threshold)
    if max_num > 0:
        kept = kept[:max_num]
    return torch.cat((boxes[kept], scores[kept, None]), dim=1)


def merge_regions(
    boxes: Sequence[Tensor], scores: Sequence[Tensor], metas: Sequence[ImageMeta]
) -> tuple[Tensor, Tensor]:
    """Mean boxes and mean probabilities of the same K regions in every view.

    Args:
        boxes: V tensors (K, 4) or (K, 4 * C) in pixels of the view.
        scores: V tensors (K, C + 1).
        metas: of the V views.

    Returns:
        boxes in original pixels and probabilities, of the shapes of one view.
    """
    found = [boxes_from_view(b, meta) for b, meta in zip(boxes, metas, strict=True)]
    return torch.stack(found).mean(dim=0), torch.stack(list(scores)).mean(dim=0)


def merge_masks(masks: Sequence[Tensor], metas: Sequence[ImageMeta]) -> Tensor:
    """Mean (K, M, M) of the V probability masks (K, M, M) of the same K regions, each turned back."""
    return torch.stack([masks_from_view(m, meta) for m, meta in zip(masks, metas, strict=True)]).mean(dim=0)
