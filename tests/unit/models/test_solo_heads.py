"""SOLO, decoupled SOLO and SOLOv2."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pycocotools import mask as coco_mask

from detector.errors import ConfigError
from detector.losses.dice import DiceLoss
from detector.losses.focal import FocalLoss
from detector.models.dense_heads.solo import (
    DecoupledSOLOHead,
    DecoupledSOLOLightHead,
    SOLOHead,
    SOLOTestSpec,
    coordinates,
    peaks,
    shrink_masks,
)
from detector.models.dense_heads.solov2 import MaskFeatureSpec, SOLOV2Head
from detector.structures.samples import ImageMeta, Targets
from detector.structures.specs import NormSpec

META = ImageMeta((48, 40), (64, 64), (64, 64))
KINDS = (SOLOHead, DecoupledSOLOHead, DecoupledSOLOLightHead, SOLOV2Head)


def head(kind: type[SOLOHead] = SOLOHead, **settings: Any) -> SOLOHead:
    torch.manual_seed(0)
    if kind is SOLOV2Head:
        settings["mask_feature_head"] = MaskFeatureSpec(
            feat_channels=4, start_level=0, end_level=2, out_channels=4
        )
    activate = kind in (SOLOHead, SOLOV2Head)
    return kind(
        num_classes=3,
        in_channels=4,
        feat_channels=4,
        stacked_convs=2,
        strides=(8, 8, 16),
        scale_ranges=((1, 20), (10, 40), (30, 100)),
        num_grids=(4, 3, 2),
        loss_mask=DiceLoss(activate=activate),
        loss_cls=FocalLoss(),
        norm_cfg=NormSpec(type="GN", num_groups=2),
        **settings,
    )


def feats(batch: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(batch, 4, s, s) for s in (16, 8, 4)]


def square() -> Targets:
    """An object of 16 x 16 pixels around (24, 24)."""
    mask = torch.zeros(1, 64, 64, dtype=torch.uint8)
    mask[0, 16:32, 16:32] = 1
    return Targets(boxes=torch.tensor([[16.0, 16, 32, 32]]), labels=torch.tensor([2]), masks=mask)


def nothing() -> Targets:
    empty = torch.zeros(0, dtype=torch.long)
    return Targets(boxes=torch.zeros(0, 4), labels=empty, masks=torch.zeros(0, 64, 64, dtype=torch.uint8))


@pytest.mark.parametrize("kind", KINDS)
def test_classes_start_unlikely(kind: type[SOLOHead]) -> None:
    model = head(kind)
    model.init_weights()
    torch.testing.assert_close(model.conv_cls.bias.sigmoid(), torch.full((3,), 0.01))


def test_coordinates_run_from_minus_one_to_one() -> None:
    plane = coordinates(torch.zeros(2, 5, 2, 3))
    assert plane.shape == (2, 2, 2, 3)
    assert plane[1, 0].tolist() == [[-1, 0, 1], [-1, 0, 1]]
    assert plane[1, 1].tolist() == [[-1, -1, -1], [1, 1, 1]]


def test_peaks_keep_local_maxima() -> None:
    scores = torch.tensor([[0.1, 0.5], [0.2, 0.4]])[None, None]
    assert torch.equal(peaks(scores), torch.tensor([[0.1, 0.5], [0.2, 0.0]])[None, None])


def test_masks_shrink_with_halves_counting() -> None:
    mask = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 1]], dtype=torch.uint8)[None]
    assert shrink_masks(mask, 2, (2, 3)).int().tolist() == [[[1, 0, 0], [0, 0, 0]]]
    assert shrink_masks(mask[:0], 2, (2, 3)).shape == (0, 2, 3)


def test_cells_around_the_centre_of_mass_belong_to_the_object() -> None:
    # centre 23.5; reach 1.6 pixels: cells of 16 pixels (level 0) 1 to 1, of 21.3 pixels (level 1) 1 to 1
    levels = head().grid_targets(square(), (64, 64))
    assert levels[0].cells.tolist() == [1 * 4 + 1]
    assert levels[1].cells.tolist() == [1 * 3 + 1]
    assert levels[2].cells.tolist() == []
    assert levels[0].labels.tolist() == [3] * 5 + [2] + [3] * 10


def test_an_empty_mask_takes_no_part() -> None:
    target = square()
    assert target.masks is not None
    target.masks.zero_()
    assert all(len(level.cells) == 0 for level in head().grid_targets(target, (64, 64)))


@pytest.mark.parametrize("kind", KINDS)
def test_losses_with_and_without_objects(kind: type[SOLOHead]) -> None:
    model = head(kind).train()
    both = model.loss(model(feats()), [square(), nothing()], [META, META])
    assert both["loss_mask"].item() > 0
    none = model.loss(model(feats()), [nothing(), nothing()], [META, META])
    assert none["loss_mask"].item() == 0
    assert none["loss_cls"].item() > 0
    sum(none.values()).backward()


@pytest.mark.parametrize("kind", KINDS)
def test_masks_have_the_size_of_the_image_and_do_not_depend_on_the_batch(kind: type[SOLOHead]) -> None:
    model = head(
        kind, test_cfg=SOLOTestSpec(score_thr=0.0, mask_thr=0.2, filter_thr=0.0, max_per_img=5)
    ).eval()
    with torch.no_grad():
        both = model.predict(model(feats()), [META, META], rescale=True)
        alone = model.predict(model([m[1:] for m in feats()]), [META], rescale=True)[0]
    assert len(both[1]) == 5
    assert both[1].masks is not None
    assert alone.masks is not None
    assert coco_mask.decode(both[1].masks[0]).shape == (48, 40)
    torch.testing.assert_close(both[1].scores, alone.scores)
    assert both[1].boxes.abs().sum() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_no_candidate_gives_empty_detections(kind: type[SOLOHead]) -> None:
    model = head(kind, test_cfg=SOLOTestSpec(score_thr=1.0)).eval()
    with torch.no_grad():
        found = model.predict(model(feats(1)), [META], rescale=True)[0]
    assert len(found) == 0
    assert found.masks == []


def test_levels_must_agree() -> None:
    with pytest.raises(ConfigError, match="num_grids"):
        SOLOHead(num_classes=1, in_channels=4, loss_mask=DiceLoss(), loss_cls=FocalLoss(), num_grids=(4,))
    with pytest.raises(ConfigError, match="mask_feature_head"):
        MaskFeatureSpec(feat_channels=4, start_level=2, end_level=1, out_channels=4)
