# Faster R-CNN on the converted annotations (detector convert pascal_voc), measured as COCO does.
_base_ = 'faster_rcnn_r50_fpn_1x_voc0712.py'
dataset_type = 'CocoDataset'
CLASSES = ('aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable',
           'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor')
data = dict(
    train=dict(
        dataset=dict(
            type=dataset_type,
            ann_file='data/voc0712_trainval.json',
            img_prefix='data/VOCdevkit',
            classes=CLASSES)),
    val=dict(type=dataset_type, ann_file='data/voc07_test.json', img_prefix='data/VOCdevkit', classes=CLASSES),
    test=dict(type=dataset_type, ann_file='data/voc07_test.json', img_prefix='data/VOCdevkit', classes=CLASSES))
evaluation = dict(interval=1, metric='bbox')
