# 12 epochs of AdamW for small models trained from scratch, 4 images per step.
runner = dict(type='EpochBasedRunner', max_epochs=12)
optimizer = dict(type='AdamW', lr=0.0005, weight_decay=0.0001)
optimizer_config = dict(grad_clip=dict(max_norm=5, norm_type=2))
lr_config = dict(policy='step', step=[9, 11], warmup='linear', warmup_iters=60, warmup_ratio=0.01)
