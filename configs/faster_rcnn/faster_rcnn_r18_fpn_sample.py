# Faster R-CNN on the built-in data set `sample`: the Mask R-CNN config without its masks.
_base_ = '../mask_rcnn/mask_rcnn_r18_fpn_sample.py'
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', img_scale=(384, 192), keep_ratio=True),
    dict(type='RandomFlip', flip_ratio=0.5),
    dict(type='Normalize', **img_norm_cfg),
    dict(type='Pad', size_divisor=32),
    dict(type='DefaultFormatBundle'),
    dict(type='Collect', keys=['img', 'gt_bboxes', 'gt_labels']),
]
model = dict(type='FasterRCNN', roi_head=dict(mask_roi_extractor=None, mask_head=None))
data = dict(train=dict(pipeline=train_pipeline))
evaluation = dict(metric='bbox')
