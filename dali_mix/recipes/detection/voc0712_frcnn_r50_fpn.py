"""VOC 2007+2012, ResNet-50 with a feature pyramid: mmdetection's protocol.

Command:  dali-mix pack voc --root VOCdevkit --task detection --split trainval --years 2007,2012 --out data/voc0712
          dali-mix pack voc --root VOCdevkit --task detection --split test --years 2007 --out data/voc07_test
          dali-mix train detection/voc0712_frcnn_r50_fpn --work-dir work_dirs/voc_frcnn_fpn
Hardware: 1 GPU of 24 GB
Source:   mmdetection's configs/pascal_voc: 1000 × 600 pixels, 12 epochs, learning rate 0.01 for 16 images per step,
          × 0.1 after epoch 9. Not run here
Expected: 11-point AP50 (`AP50_11`) 79.5 (published there, from ImageNet weights). To load a backbone:
          --cfg-options model.backbone.weights=CHECKPOINT_OR_WEIGHTS
"""

train_set = "data/voc0712"
val_set = "data/voc07_test"
pipeline = {"type": "detection", "shorter": 600, "longest": 1000}
batch_size = 16
epochs = 12
seed = 0
model = {"type": "detector", "backbone": {"type": "torchvision/resnet50"}}
objective = {"type": "Detection"}
optimizer = {"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
schedule = {"type": "step", "milestones": (9,), "gamma": 0.1}
log_interval = 100
checkpoint = {"interval_epochs": 1, "keep": 2, "best": "AP50_11"}
