"""DeepFashion's In-shop segmentation in COCO format.

Source: Liu et al., DeepFashion, CVPR 2016; class order checked against MMDetection 2.28.2.
"""

from __future__ import annotations

from detector.data.datasets.coco import CocoDataset


class DeepFashionDataset(CocoDataset):
    """Fifteen kinds of clothing and body parts."""

    CLASSES = (
        "top", "skirt", "leggings", "dress", "outer", "pants", "bag", "neckwear", "headwear", "eyeglass",
        "belt", "footwear", "hair", "skin", "face",
    )  # fmt: skip
    PALETTE = ()
