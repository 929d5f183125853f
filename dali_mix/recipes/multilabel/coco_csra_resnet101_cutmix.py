"""COCO 2014, ResNet-101 (CutMix weights), CSRA at 448 pixels.

Command:  dali-mix train multilabel/coco_csra_resnet101_cutmix --work-dir work_dirs/coco_csra_resnet101_cutmix
Hardware: 1 GPU
Source:   CSRA (arXiv 2108.02456), table of results on COCO
Expected: mAP 85.6 % (published)
"""

from mmengine.config import read_base

with read_base():
    from ._csra import *

train_set = "data/coco2014_train"
val_set = "data/coco2014_val"
model = {
    "type": "multilabel",
    "backbone": {"type": "resnet101", "weights": "weights/resnet101_cutmix.pth"},
    "head": {"type": "csra", "num_heads": 6, "lam": 0.4},
}
