# Faster R-CNN on your own data in VOC format. Copy this file, edit `classes` and `data_root`, then
#   detector convert pascal_voc data/bccd --out-dir data/bccd/annotations --out-format coco
#   detector train <this file>
_base_ = [
    '../_base_/models/faster_rcnn_r18_fpn_gn.py',
    '../_base_/datasets/own_detection.py',
    '../_base_/schedules/schedule_small.py',
    '../_base_/default_runtime.py',
]

classes = ('RBC', 'WBC', 'Platelets')  # the names in your XML files
data_root = 'data/bccd/'  # holds JPEGImages/ and annotations/{train,val,test}.json

model = dict(roi_head=dict(bbox_head=dict(num_classes=len(classes))))
data = dict(
    train=dict(
        classes=classes, ann_file=data_root + 'annotations/train.json', img_prefix=data_root + 'JPEGImages/'),
    val=dict(classes=classes, ann_file=data_root + 'annotations/val.json', img_prefix=data_root + 'JPEGImages/'),
    test=dict(
        classes=classes, ann_file=data_root + 'annotations/test.json', img_prefix=data_root + 'JPEGImages/'))
checkpoint_config = dict(interval=4)
log_config = dict(interval=10)
dist_params = dict(backend='gloo')
