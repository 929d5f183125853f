"""VOC2007, {title}, CSRA at 448 pixels.

Command:  dali-mix train multilabel/voc2007_csra:{variant} --work-dir work_dirs/voc2007_csra_{variant}
Hardware: 1 GPU
Source:   CSRA (arXiv 2108.02456), table of results on VOC2007; learning rate drops every 4 epochs
Expected: {expected}
"""

from mmengine.config import read_base

with read_base():
    from ._csra import *

train_set = "data/voc2007_trainval"
val_set = "data/voc2007_test"
model = {"type": "multilabel", "backbone": {"type": "resnet101"}, "head": {"type": "csra", "num_heads": 1, "lam": 0.1}}
schedule = {"type": "step", "milestones": [4, 8, 12, 16, 20, 24, 28], "gamma": 0.1, "warmup_epochs": 2}
VARIANTS = {
    "resnet101": {
        "about": {"title": "ResNet-101", "expected": "mAP 94.7% (published)"},
        "model.backbone.weights": "weights/resnet101.pth",
    },
    "resnet101_cutmix": {
        "about": {"title": "ResNet-101 (CutMix weights)", "expected": "mAP 95.2% (published)"},
        "model.backbone.weights": "weights/resnet101_cutmix.pth",
    },
}
