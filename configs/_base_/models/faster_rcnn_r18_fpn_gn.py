# A small Faster R-CNN that trains from scratch on a CPU: ResNet-18 with GroupNorm, FPN and heads of half the width.
# num_classes is for the config that inherits this file to give.
_base_ = 'faster_rcnn_r50_fpn.py'
gn = dict(type='GN', num_groups=32, requires_grad=True)
model = dict(
    backbone=dict(
        depth=18, frozen_stages=-1, norm_eval=False, zero_init_residual=False, norm_cfg=gn, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=128, norm_cfg=gn),
    rpn_head=dict(in_channels=128, feat_channels=128),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=128), bbox_head=dict(in_channels=128, fc_out_channels=256)),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=500, max_per_img=300),
        rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=300)))
