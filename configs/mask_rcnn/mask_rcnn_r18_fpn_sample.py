# Mask R-CNN on the built-in data set `sample`, small enough to train from scratch on two CPU cores in minutes:
# a ResNet-18 of half the width and heads of a quarter. Anything not said here is as in the bases.
_base_ = [
    '../_base_/models/mask_rcnn_r50_fpn.py',
    '../_base_/datasets/sample_instance.py',
    '../_base_/default_runtime.py',
]

# Knobs
max_epochs = 3
lr_drops = [2]  # the rate falls to a tenth after these epochs
lr = 0.001  # for 4 images per step
warmup_iters = 60
width = 32  # of the backbone's first stage; 64 in the usual ResNet
channels = 64  # of the FPN and everything above it
gn = dict(type='GN', num_groups=16, requires_grad=True)  # no pretrained weights, small batches: no BatchNorm

model = dict(
    backbone=dict(
        depth=18, base_channels=width, stem_channels=width, frozen_stages=-1, norm_eval=False,
        zero_init_residual=False, norm_cfg=gn, init_cfg=None),
    neck=dict(in_channels=[width, 2 * width, 4 * width, 8 * width], out_channels=channels, norm_cfg=gn),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(scales=[4])),  # sides of 16 to 256 pixels; the objects have 10 to 170
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels, finest_scale=28),  # half of MMDetection's 56: small images
        bbox_head=dict(num_classes=8, in_channels=channels, fc_out_channels=256),
        mask_roi_extractor=dict(out_channels=channels, finest_scale=28),
        mask_head=dict(num_classes=8, num_convs=2, in_channels=channels, conv_out_channels=64)),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=500, max_per_img=300),
        rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=300)))

data = dict(samples_per_gpu=4, workers_per_gpu=1)

optimizer = dict(type='AdamW', lr=lr, weight_decay=0.0001)
optimizer_config = dict(grad_clip=dict(max_norm=5, norm_type=2))
lr_config = dict(policy='step', step=lr_drops, warmup='linear', warmup_iters=warmup_iters, warmup_ratio=0.01)
runner = dict(type='EpochBasedRunner', max_epochs=max_epochs)

evaluation = dict(interval=1, metric=['bbox', 'segm'])
checkpoint_config = dict(interval=1, max_keep_ckpts=2)
log_config = dict(interval=10)
dist_params = dict(backend='gloo')
auto_scale_lr = dict(base_batch_size=4)
