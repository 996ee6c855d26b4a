import pytest
import torch

from detector.targets.assigners.approx_max_iou import ApproxMaxIoUAssigner
from detector.targets.assigners.assignment import BACKGROUND, IGNORE, LevelAssigner
from detector.targets.assigners.atss import ATSSAssigner
from detector.targets.assigners.max_iou import MaxIoUAssigner
from detector.targets.assigners.mixture import fit_mixture, keep_likely
from detector.targets.coders.bucketing import BucketingBBoxCoder

GT = torch.tensor([[0.0, 0, 20, 20]])


def squares(*centres, side=20.0):
    points = torch.tensor(centres, dtype=torch.float32)
    return torch.cat((points - side / 2, points + side / 2), dim=1)


def test_atss_threshold_is_mean_plus_deviation_of_the_near():
    priors = squares((10, 10), (14, 10), (18, 10), (90, 90))
    got = ATSSAssigner(topk=3).assign_levels(priors, [4], GT)
    # overlaps 1, 2/3, 3/7: mean 0.70, deviation 0.29; only the first exceeds 0.99
    assert got.gt_index.tolist() == [0, BACKGROUND, BACKGROUND, BACKGROUND]
    torch.testing.assert_close(got.overlap, torch.tensor([1.0, 0, 0, 0]))


def test_atss_centre_must_lie_inside():
    priors = torch.cat((squares((21, 10)), squares((60, 60), (70, 70))))
    assert ATSSAssigner(topk=3).assign_levels(priors, [3], GT).gt_index.tolist() == [BACKGROUND] * 3


def test_atss_takes_the_near_of_every_level():
    priors = torch.cat((squares((10, 10), (80, 80)), squares((10, 10), (80, 80), side=200)))
    got = ATSSAssigner(topk=1).assign_levels(priors, [2, 2], GT)
    assert got.gt_index.tolist() == [BACKGROUND] * 4  # 1 and 0.01: mean + deviation is above 1
    wide = ATSSAssigner(topk=2).assign_levels(priors, [2, 2], GT)
    assert wide.gt_index.tolist() == [0, BACKGROUND, BACKGROUND, BACKGROUND]


def test_atss_competing_boxes_the_larger_overlap_wins():
    gt = torch.tensor([[0.0, 0, 22, 22], [0, 0, 20, 20]])
    priors = squares((10, 10), (200, 200), (220, 220))
    assert ATSSAssigner(topk=3).assign_levels(priors, [3], gt).gt_index.tolist()[0] == 1


def test_atss_empty_levels_ground_truth_and_ignored():
    assigner = ATSSAssigner(topk=9, ignore_iof_thr=0.5)
    priors = squares((10, 10), (50, 50), (90, 90))
    assert isinstance(assigner, LevelAssigner)
    assert not isinstance(MaxIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.5), LevelAssigner)
    assert assigner.assign_levels(priors, [3, 0], torch.zeros(0, 4)).gt_index.tolist() == [BACKGROUND] * 3
    got = assigner.assign_levels(priors, [0, 3], GT, squares((50, 50), side=40))
    assert got.gt_index.tolist() == [0, IGNORE, BACKGROUND]


def test_joint_quality_weighs_score_and_overlap():
    quality = ATSSAssigner(topk=9, alpha=0.5).joint_quality(
        torch.zeros(1, 3), squares((10, 10)), GT, torch.tensor([2])
    )
    torch.testing.assert_close(quality, torch.tensor([[0.5**0.5]]))


def test_cells_take_the_best_of_their_boxes():
    assigner = ApproxMaxIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.4, match_low_quality=False)
    cells = squares((10, 10), (60, 60))
    groups = torch.stack((squares((10, 10), (60, 60), side=4), squares((10, 10), (60, 60), side=22)), dim=1)
    assert assigner.assign_cells(groups, cells, GT).gt_index.tolist() == [0, BACKGROUND]
    assert assigner.assign_cells(groups, cells, torch.zeros(0, 4)).gt_index.tolist() == [BACKGROUND] * 2
    assert assigner.assign_cells(groups[:0], cells[:0], GT).gt_index.tolist() == []


@pytest.mark.parametrize("tied", [False, True])
def test_mixture_finds_two_groups(tied):
    torch.manual_seed(0)
    low, high = torch.randn(40).double() * 0.1 + 1, torch.randn(40).double() * 0.1 + 5
    values = torch.cat((low, high))[None]
    found = fit_mixture(values, torch.ones_like(values, dtype=torch.bool), tied=tied)
    torch.testing.assert_close(
        found.means, torch.stack((low.mean(), high.mean()))[None], rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(found.weights, torch.full((1, 2), 0.5).double(), rtol=1e-3, atol=1e-3)


def test_mixture_does_not_depend_on_its_neighbours():
    torch.manual_seed(0)
    values, valid = torch.rand(3, 12).double().sort(dim=1).values, torch.ones(3, 12, dtype=torch.bool)
    valid[1, 7:] = False
    together = fit_mixture(values, valid)
    alone = fit_mixture(values[1:2, :7], valid[1:2, :7])
    torch.testing.assert_close(together.means[1:2], alone.means)


def test_likely_candidates_are_the_low_losses():
    losses = torch.tensor([1.0, 9, 1.05, 9.1, 1.1, 9.05])
    keep = keep_likely(losses, torch.zeros(6).long(), torch.zeros(6).long(), topk=6)
    assert keep[1::2].tolist() == [False] * 3
    assert keep[0].item()


def test_likely_candidates_per_level_and_group():
    losses = torch.tensor([1.0, 1.1, 50.0, 1.2, 60.0, 3.0])
    groups, levels = torch.tensor([0, 0, 0, 0, 0, 7]), torch.tensor([0, 0, 0, 1, 1, 0])
    keep = keep_likely(losses, groups, levels, topk=1)
    assert keep.tolist()[1:3] == [False, False]  # beyond the best of level 0
    assert not keep[5]  # alone in its group
    assert keep_likely(losses[:0], groups[:0], levels[:0], topk=9).tolist() == []


def test_buckets_lead_back_to_the_box():
    coder = BucketingBBoxCoder(num_buckets=14, scale_factor=3.0)
    boxes, gt = torch.tensor([[10.0, 20, 40, 60]]), torch.tensor([[13.0, 16, 45, 57]])
    wanted = coder.encode(boxes, gt)
    assert wanted.labels.reshape(4, 7).sum(dim=1).tolist() == [1] * 4
    back, sure = coder.decode(boxes, wanted.labels * 50, wanted.offsets)
    torch.testing.assert_close(back, gt)
    torch.testing.assert_close(sure, torch.ones(1))


def test_buckets_learn_offsets_only_near_and_ignore_neighbours():
    coder = BucketingBBoxCoder(num_buckets=4, scale_factor=1.0)  # bucket centres 0.5 and 1.5 from each side
    wanted = coder.encode(torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[0.7, 0.4, 3.5, 3.5]]))
    assert wanted.labels[0, :2].tolist() == [1, 0]
    assert wanted.label_weights[0].tolist() == [1, 0, 1, 1, 1, 1, 1, 1]
    assert wanted.offset_weights[0].tolist() == [1, 1, 1, 0, 1, 0, 1, 0]
    torch.testing.assert_close(wanted.offsets[0, :2], torch.tensor([-0.2, 0.8]))


def test_buckets_clip_to_the_last_pixel_and_take_no_boxes():
    coder = BucketingBBoxCoder(num_buckets=4, scale_factor=1.0)
    boxes, _ = coder.decode(
        torch.tensor([[-9.0, -9, 99, 99]]), torch.zeros(1, 8), torch.zeros(1, 8), max_hw=(20, 30)
    )
    assert boxes.max() <= 29
    assert boxes[0, 3] <= 19
    assert coder.encode(torch.zeros(0, 4), torch.zeros(0, 4)).labels.shape == (0, 8)
