from detector.config.mmdet_v2 import normalise_model, repeat_stages


def test_single_parts_are_repeated_for_every_stage():
    head = {"type": "CascadeRoIHead", "num_stages": 3, "bbox_head": [1, 2, 3], "mask_head": {"type": "M"}}
    got = repeat_stages(head)
    assert got["bbox_head"] == [1, 2, 3]
    assert got["mask_head"] == [{"type": "M"}] * 3
    assert len({id(part) for part in got["mask_head"]}) == 3
    assert head["mask_head"] == {"type": "M"}


def test_scnet_keeps_its_only_mask_head():
    got = repeat_stages(
        {"type": "SCNetRoIHead", "num_stages": 2, "bbox_head": {"type": "B"}, "mask_head": {"type": "M"}}
    )
    assert got["mask_head"] == {"type": "M"}
    assert got["bbox_head"] == [{"type": "B"}] * 2


def test_other_heads_stay_as_they_are():
    assert repeat_stages({"type": "StandardRoIHead", "bbox_head": {"type": "B"}}) == {
        "type": "StandardRoIHead",
        "bbox_head": {"type": "B"},
    }


def test_settings_of_every_stage_reach_the_head():
    stages = [{"pos_weight": -1}, {"pos_weight": 2}]
    model = {
        "type": "CascadeRCNN",
        "roi_head": {"type": "CascadeRoIHead", "num_stages": 2},
        "train_cfg": {"rcnn": stages},
        "test_cfg": {"rcnn": {"score_thr": 0.1}},
    }
    got = normalise_model(model)["roi_head"]
    assert got["train_cfg"] == stages
    assert got["test_cfg"] == {"score_thr": 0.1}
    assert "train_cfg" not in normalise_model(model, training=False)["roi_head"]
