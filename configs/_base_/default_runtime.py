# What a run does besides learning: logging, checkpoints, processes.
log_level = 'INFO'
log_config = dict(interval=50, hooks=[dict(type='TextLoggerHook')])  # interval in iterations
checkpoint_config = dict(interval=1)  # in epochs
load_from = None  # start from these weights
resume_from = None  # continue this run: weights, optimizer, epoch
workflow = [('train', 1)]
custom_hooks = [dict(type='NumClassCheckHook')]

dist_params = dict(backend='nccl')
mp_start_method = 'fork'
opencv_num_threads = 0  # the loader's workers are the parallelism

# The learning rates hold for this many images per step; `detector train --auto-scale-lr` enables the scaling.
auto_scale_lr = dict(enable=False, base_batch_size=16)
