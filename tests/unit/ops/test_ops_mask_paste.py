import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from detector.ops.mask_paste import paste_masks


def pasted(mask, box, hw):
    return coco_mask.decode(paste_masks(mask[None], torch.tensor([box]), hw, threshold=0.5)[0])


def test_full_mask_fills_its_box():
    got = pasted(torch.ones(28, 28), [2.0, 3.0, 8.0, 7.0], (10, 12))
    wanted = np.zeros((10, 12), np.uint8)
    wanted[3:7, 2:8] = 1
    np.testing.assert_array_equal(got, wanted)


def test_half_mask_fills_half_the_box():
    mask = torch.zeros(28, 28)
    mask[:, :14] = 1
    got = pasted(mask, [0.0, 0.0, 20.0, 10.0], (10, 20))
    assert got[:, :10].all()
    assert not got[:, 10:].any()


@pytest.mark.parametrize("box", [[-50.0, -50, -20, -20], [100.0, 100, 140, 140], [5.0, 5, 5, 9]])
def test_box_outside_or_flat_gives_an_empty_mask(box):
    got = pasted(torch.ones(28, 28), box, (30, 40))
    assert got.shape == (30, 40)
    assert not got.any()


def test_masks_do_not_leak_into_each_other():
    boxes = torch.tensor([[0.0, 0, 10, 10], [5.0, 5, 15, 15]])
    rles = paste_masks(torch.ones(2, 28, 28), boxes, (20, 20), threshold=0.5)
    assert coco_mask.area(rles).tolist() == [100, 100]


def test_nothing():
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (10, 10), threshold=0.5) == []
