import pytest
import torch
import torchvision

from detector.ops import nms as module
from detector.ops.nms import batched_nms, multiclass_nms, soft_nms
from detector.structures.specs import NmsSpec


def random_boxes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 200
    return torch.cat((corner, corner + 5 + torch.rand(count, 2, generator=generator) * 60), dim=1)


def test_groups_never_suppress_each_other():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
    kept, scores = batched_nms(boxes, torch.tensor([0.3, 0.9, 0.5]), torch.tensor([0, 1, 0]), NmsSpec())
    assert kept.tolist() == [1, 2]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.5]))


@pytest.mark.parametrize("groups", [1, 3, 40])
def test_group_by_group_equals_one_call(groups, monkeypatch):
    boxes, scores = random_boxes(900), torch.rand(900, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(900) % groups
    split, _ = batched_nms(boxes, scores, labels, NmsSpec())
    monkeypatch.setattr(module, "_SINGLE_CALL", 10_000)
    whole, _ = batched_nms(boxes, scores, labels, NmsSpec())
    assert split.tolist() == whole.tolist()
    shifted = boxes + (labels * (boxes.max() + 1))[:, None]
    assert whole.tolist() == torchvision.ops.nms(shifted, scores, 0.5).tolist()


def test_idempotent():
    boxes, scores, labels = random_boxes(300), torch.linspace(1, 0.1, 300), torch.zeros(300, dtype=torch.long)
    kept, kept_scores = batched_nms(boxes, scores, labels, NmsSpec())
    again, _ = batched_nms(boxes[kept], kept_scores, labels[kept], NmsSpec())
    assert again.tolist() == list(range(len(kept)))


def test_class_agnostic_suppresses_across_groups():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    kept, _ = batched_nms(boxes, torch.tensor([0.3, 0.9]), torch.tensor([0, 1]), NmsSpec(class_agnostic=True))
    assert kept.tolist() == [1]


def test_none_only_sorts():
    kept, _ = batched_nms(torch.zeros(3, 4), torch.tensor([0.1, 0.9, 0.5]), torch.zeros(3), None)
    assert kept.tolist() == [1, 2, 0]


def test_soft_nms_linear_by_hand():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 60, 60]])
    kept, scores = soft_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), NmsSpec(type="soft_nms", iou_threshold=0.3))
    assert kept.tolist() == [0, 2, 1]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.7, 0.4]))


def test_multiclass_drops_background_and_low_scores():
    boxes = torch.tensor([[0.0, 0, 10, 10, 20, 20, 30, 30]])
    scores = torch.tensor([[0.04, 0.6, 0.36]])
    found, kept, labels = multiclass_nms(boxes, scores, score_thr=0.05, spec=NmsSpec())
    assert labels.tolist() == [1]
    assert found.tolist() == [[20, 20, 30, 30]]
    torch.testing.assert_close(kept, torch.tensor([0.6]))


def test_multiclass_keeps_the_best():
    found, scores, labels = multiclass_nms(
        random_boxes(50), torch.rand(50, 4), score_thr=0.0, spec=NmsSpec(), max_num=7
    )
    assert len(found) == len(labels) == 7
    assert bool((scores.diff() <= 0).all())


def test_multiclass_of_nothing():
    found, _, labels = multiclass_nms(torch.zeros(0, 12), torch.zeros(0, 4), score_thr=0.05, spec=NmsSpec())
    assert found.shape == (0, 4)
    assert labels.dtype == torch.int64
