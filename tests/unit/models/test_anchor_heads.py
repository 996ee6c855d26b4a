import pytest
import torch
from torch import nn

from detector.errors import ConfigError
from detector.losses.focal import FocalLoss
from detector.losses.gfocal import QualityFocalLoss
from detector.losses.iou import GIoULoss
from detector.losses.smooth_l1 import L1Loss
from detector.models.dense_heads.anchor_head import AnchorHead, AnchorTrainSpec
from detector.models.dense_heads.atss import ATSSHead, centredness
from detector.models.dense_heads.ddod import DDODHead, DDODTrainSpec
from detector.models.dense_heads.free_anchor import FreeAnchorRetinaHead
from detector.models.dense_heads.gfl import GFLHead, Integral
from detector.models.dense_heads.guided_anchor import GuidedTrainSpec
from detector.models.dense_heads.guided_anchor_heads import GARetinaHead, GARPNHead
from detector.models.dense_heads.guided_anchor_targets import box_levels, centre_targets
from detector.models.dense_heads.ld import LDHead
from detector.models.dense_heads.paa import PAAHead, vote
from detector.models.dense_heads.pisa_retina import PISARetinaHead, PISATrainSpec
from detector.models.dense_heads.retina import RetinaHead
from detector.models.dense_heads.retina_sepbn import RetinaSepBNHead
from detector.models.dense_heads.sabl_retina import ApproxTrainSpec, SABLRetinaHead
from detector.models.dense_heads.selection import Candidates, DenseTestSpec, best_rows, pick, suppress
from detector.models.dense_heads.ssd import CarlSpec, RankSpec
from detector.models.detectors.distillation import KnowledgeDistillationSingleStageDetector
from detector.models.necks.dyhead import DyHead
from detector.structures.samples import Batch, Detections, ImageMeta, Targets
from detector.structures.specs import NormSpec
from detector.targets.assigners.approx_max_iou import ApproxMaxIoUAssigner
from detector.targets.assigners.atss import ATSSAssigner
from detector.targets.assigners.max_iou import MaxIoUAssigner
from detector.targets.priors.anchors import AnchorGenerator
from detector.targets.samplers.random import RandomSampler

STRIDES = [8, 16]
GROUPS = NormSpec(type="GN", num_groups=2)
MAX_IOU = MaxIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0)
APPROX = ApproxMaxIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.4)
ALL = DenseTestSpec(score_thr=0.0, nms_pre=50)
SMALL = {"num_classes": 3, "in_channels": 4, "feat_channels": 4}
TOWER = SMALL | {"stacked_convs": 1, "test_cfg": ALL}


def anchors():
    return AnchorGenerator(ratios=[1.0, 2.0], scales=[4], strides=STRIDES)


def single():
    return AnchorGenerator(ratios=[1.0], octave_base_scale=4, scales_per_octave=1, strides=STRIDES)


def square():
    return AnchorGenerator(ratios=[1.0], scales=[4], strides=STRIDES)


def focal(spec):
    return TOWER | {"loss_cls": FocalLoss(), "train_cfg": spec}


def boxes_on_top(**other):
    shared = {"anchor_generator": single(), "loss_bbox": GIoULoss(), "norm_cfg": GROUPS}
    return focal(AnchorTrainSpec(assigner=ATSSAssigner(topk=3))) | shared | other


def guided():
    return {"approx_anchor_generator": anchors(), "square_anchor_generator": square(), "deform_groups": 1}


def guided_spec(assigner=MAX_IOU):
    sampler = RandomSampler(num=16, pos_fraction=0.5, add_gt_as_proposals=False)
    return GuidedTrainSpec(assigner=assigner, ga_assigner=APPROX, ga_sampler=sampler)


HEADS = {
    "anchor": lambda: AnchorHead(
        **SMALL, anchor_generator=anchors(), test_cfg=ALL, train_cfg=AnchorTrainSpec(assigner=MAX_IOU)
    ),
    "retina": lambda: RetinaHead(**focal(AnchorTrainSpec(assigner=MAX_IOU)), anchor_generator=anchors()),
    "sepbn": lambda: RetinaSepBNHead(
        **focal(AnchorTrainSpec(assigner=MAX_IOU)), anchor_generator=anchors(), num_ins=2, norm_cfg=GROUPS
    ),
    "free": lambda: FreeAnchorRetinaHead(**TOWER, anchor_generator=anchors(), loss_bbox=L1Loss()),
    "pisa": lambda: PISARetinaHead(
        **focal(PISATrainSpec(assigner=MAX_IOU, isr=RankSpec(), carl=CarlSpec())), anchor_generator=anchors()
    ),
    "atss": lambda: ATSSHead(**boxes_on_top()),
    "paa": lambda: PAAHead(**boxes_on_top(train_cfg=AnchorTrainSpec(assigner=MAX_IOU))),
    "gfl": lambda: GFLHead(**boxes_on_top(loss_cls=QualityFocalLoss())),
    "ddod": lambda: DDODHead(
        **boxes_on_top(
            train_cfg=DDODTrainSpec(
                assigner=ATSSAssigner(topk=3, alpha=0.8), reg_assigner=ATSSAssigner(topk=3, alpha=0.5)
            )
        )
    ),
    "sabl": lambda: SABLRetinaHead(
        **focal(ApproxTrainSpec(assigner=APPROX)),
        approx_anchor_generator=anchors(),
        square_anchor_generator=square(),
    ),
    "guided": lambda: GARetinaHead(**focal(guided_spec()), **guided()),
}
NAMES = sorted(HEADS)
METAS = [ImageMeta((64, 64), (64, 64), (64, 64)), ImageMeta((64, 64), (48, 56), (48, 56))]
NOTHING = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
OBJECTS = Targets(torch.tensor([[4.0, 6, 40, 40], [30, 8, 60, 44]]), torch.tensor([2, 0]))


def maps(batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 4, 64 // s, 64 // s, generator=generator) for s in STRIDES]


def made(name):
    torch.manual_seed(0)
    head = HEADS[name]()
    head.init_weights()
    return head


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_finite_and_reach_every_parameter(name):
    head = made(name)
    losses = head.loss(head(maps()), [OBJECTS, NOTHING], METAS)
    assert all(v.ndim == 0 and torch.isfinite(v) for v in losses.values())
    sum(losses.values()).backward()
    assert [n for n, p in head.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", NAMES)
def test_losses_without_objects(name):
    head = made(name)
    losses = head.loss(head(maps()), [NOTHING, NOTHING], METAS)
    assert all(torch.isfinite(v) for v in losses.values())
    boxes = [v for n, v in losses.items() if "bbox" in n or n in ("loss_iou", "positive_bag_loss")]
    assert all(v == 0 for v in boxes)
    sum(losses.values()).backward()
    assert [n for n, p in head.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", NAMES)
def test_predictions_do_not_depend_on_the_batch(name):
    head, feats = made(name).eval(), maps()
    both = head.predict(head(feats), METAS, rescale=False)
    alone = head.predict(head([m[1:] for m in feats]), METAS[1:], rescale=False)
    assert len(both[1]) == len(alone[0]) > 0
    torch.testing.assert_close(both[1].boxes, alone[0].boxes, rtol=1e-4, atol=1e-3)
    # a voted box is a weighted mean of boxes inside the image: inside but for the rounding of float32
    assert both[1].boxes[:, 0::2].max() <= 56 * (1 + 1e-6)
    assert both[1].boxes[:, 1::2].max() <= 48 * (1 + 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_heads_build_on_the_meta_device(name):
    with torch.device("meta"):
        head = HEADS[name]()
    assert all(p.is_meta for p in head.parameters())


def test_a_head_for_testing_has_no_loss():
    head = AnchorHead(**SMALL, anchor_generator=anchors())
    with pytest.raises(RuntimeError, match="train_cfg"):
        head.loss(head(maps()), [OBJECTS, NOTHING], METAS)


def test_retina_starts_with_rare_classes():
    head = made("retina")
    torch.testing.assert_close(head.retina_cls.bias, torch.full_like(head.retina_cls.bias, -4.59512))
    assert head.retina_reg.bias.abs().max() == 0


def test_focal_losses_ignore_a_sampler():
    sampler = RandomSampler(num=4, pos_fraction=0.5, add_gt_as_proposals=False)
    spec = AnchorTrainSpec(assigner=MAX_IOU, sampler=sampler)
    assert RetinaHead(**focal(spec), anchor_generator=anchors()).sampling is None
    assert AnchorHead(**SMALL, anchor_generator=anchors(), train_cfg=spec).sampling is sampler


def test_levels_share_convolutions_but_not_norms():
    head = made("sepbn")
    assert head.cls_convs[0][0].conv is head.cls_convs[1][0].conv
    assert head.cls_convs[0][0].gn is not head.cls_convs[1][0].gn
    assert "cls_convs.1.0.conv.weight" in head.state_dict()


def test_pick_by_hand():
    scores = torch.tensor([[0.9, 0.2], [0.05, 0.9], [0.5, 0.9]])
    values, labels, rows = pick(scores, 0.1, 3)
    assert rows.tolist() == [0, 1, 2]  # equal scores keep their order
    assert labels.tolist() == [0, 1, 1]
    torch.testing.assert_close(values, torch.full((3,), 0.9))
    assert pick(scores, 0.1, -1)[2].tolist() == [0, 1, 2, 2, 0]
    assert pick(scores, 0.95, 3)[0].numel() == 0


def test_suppress_within_a_class_only():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9]])
    scores = torch.tensor([0.5, 0.9, 0.7])
    found = suppress(Candidates(boxes, scores, torch.tensor([0, 0, 1]), scores), DenseTestSpec())
    assert found.labels.tolist() == [0, 1]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.7]))
    none = Candidates(boxes[:0], scores[:0], torch.zeros(0).long(), scores[:0])
    assert len(suppress(none, DenseTestSpec())) == 0


def test_centredness_by_hand():
    points = torch.tensor([[5.0, 5], [2, 5], [20, 5]])
    got = centredness(points, torch.tensor([[0.0, 0, 10, 10]]).expand(3, 4))
    torch.testing.assert_close(got, torch.tensor([1.0, 0.5, 0.0]))


def test_integral_is_the_mean_bin():
    logits = torch.full((1, 4, 5), -50.0)
    logits[0, torch.arange(4), torch.tensor([0, 1, 2, 4])] = 50.0
    torch.testing.assert_close(Integral(4)(logits.flatten(1)), torch.tensor([[0.0, 1, 2, 4]]))


def test_gfl_wants_one_anchor_per_cell():
    with pytest.raises(ConfigError, match="1"):
        GFLHead(**boxes_on_top(anchor_generator=anchors()))


def test_ddod_wants_assigners_that_see_predictions():
    with pytest.raises(ConfigError, match="alpha"):
        DDODHead(**boxes_on_top(train_cfg=DDODTrainSpec(assigner=ATSSAssigner(topk=9))))


def test_ddod_rare_levels_count_twice():
    head = made("ddod")
    head.loss(head(maps()), [OBJECTS, NOTHING], METAS)
    assert max(head.positives_per_level) > min(head.positives_per_level)
    found = head.find_targets([(8, 8), (4, 4)], [NOTHING], METAS[:1])
    assert sorted(head.level_factors(found, [64, 16])) == pytest.approx([1.0, 2.0])


def test_voting_moves_to_the_mean_of_its_class():
    rivals = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 12], [0, 0, 10, 14]])
    scores, labels = torch.tensor([0.8, 0.8, 0.9]), torch.tensor([0, 0, 1])
    found = Detections(rivals[[2, 0]], scores[[2, 0]], labels[[2, 0]])
    voted = vote(found, Candidates(rivals, scores, labels, scores))
    assert voted.labels.tolist() == [0, 1]
    assert 10 < voted.boxes[0, 3] < 12
    torch.testing.assert_close(voted.boxes[1], rivals[2])


def test_pisa_wants_focal_loss():
    with pytest.raises(ConfigError, match="FocalLoss"):
        PISARetinaHead(**TOWER, anchor_generator=anchors())


def test_guided_boxes_go_to_the_level_of_their_size():
    boxes = torch.tensor([[0.0, 0, 32, 32], [0, 0, 64, 64], [0, 0, 1, 1], [5, 5, 5, 5], [0, 0, 999, 999]])
    assert box_levels(boxes, 32.0, 2) == [0, 1, 0, 0, 1]


def test_guided_centres_by_hand():
    centres, weights = centre_targets(
        [torch.tensor([[0.0, 0, 64, 64]])],
        [(8, 8), (4, 4)],
        STRIDES,
        anchor_scale=4,
        center_ratio=0.0,
        ignore_ratio=0.5,
    )
    assert centres[0].sum() == 0
    assert centres[1][0].nonzero().tolist() == [[2, 2]]
    assert weights[1][0, 2, 2] == 1
    assert weights[1][0, 1, 1] == 0
    assert weights[1][0, 0, 0] == pytest.approx(0.1)
    assert weights[0][0, 2:7, 2:7].abs().max() == 0
    assert weights[0][0, 0, 0] == pytest.approx(0.1)


def test_guided_proposals_and_their_losses():
    spec = guided_spec(MaxIoUAssigner(pos_iou_thr=0.7, neg_iou_thr=0.3))
    head = GARPNHead(in_channels=4, feat_channels=4, train_cfg=spec, **guided())
    head.init_weights()
    losses = head.loss(head(maps()), [OBJECTS, NOTHING], METAS)
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_bbox", "loss_anchor_shape", "loss_anchor_loc"}
    found = head.eval().propose(head(maps()), METAS)
    assert all(f.shape[1] == 5 and f[:, 4].diff().le(0).all() for f in found)


def test_guided_cells_below_the_threshold_are_left_out():
    head = GARetinaHead(**focal(guided_spec()), **guided(), loc_filter_thr=0.5).eval()
    nn.init.constant_(head.conv_loc.bias, -100.0)
    raw = head(maps())
    assert all(m.abs().max() == 0 for m in raw[0])
    assert [len(found) for found in head.predict(raw, METAS, rescale=False)] == [0, 0]


class Levels(nn.Module):
    def forward(self, images):
        return maps(len(images))


def test_distillation_needs_its_teacher_and_hides_it():
    student, teacher = LDHead(**boxes_on_top(loss_cls=QualityFocalLoss())), made("gfl")
    model = KnowledgeDistillationSingleStageDetector(
        backbone=Levels(), bbox_head=student, teacher_config="teacher.py"
    )
    batch = Batch(torch.zeros(2, 3, 64, 64), METAS, [OBJECTS, NOTHING])
    with pytest.raises(RuntimeError, match=r"teacher\.py"):
        model.loss(batch)
    keys = set(model.state_dict())
    model.attach_teacher(KnowledgeDistillationSingleStageDetector(backbone=Levels(), bbox_head=teacher))
    assert set(model.train().state_dict()) == keys
    assert set(model.loss(batch)) == {"loss_cls", "loss_bbox", "loss_dfl", "loss_ld"}
    assert not teacher.training
    with pytest.raises(RuntimeError, match="distil"):
        student.loss(None, [], [])


def test_dyhead_keeps_sizes_and_starts_regular():
    neck = DyHead(in_channels=16, out_channels=16, num_blocks=1)
    neck.init_weights()
    feats = [torch.randn(2, 16, 9, 7), torch.randn(2, 16, 5, 4), torch.randn(2, 16, 3, 2)]
    assert [m.shape for m in neck(feats)] == [m.shape for m in feats]
    assert neck.dyhead_blocks[0].spatial_conv_offset.weight.abs().max() == 0


@pytest.mark.parametrize("nans", [0, 3, 600])
def test_the_best_rows_keep_the_order_of_equal_scores(nans):
    torch.manual_seed(0)
    scores = torch.randint(0, 4, (2, 600)).float()
    scores[1, :nans] = float("nan")
    wanted = scores.argsort(dim=1, descending=True, stable=True)[:, :250]
    assert torch.equal(best_rows(scores, 250), wanted)
