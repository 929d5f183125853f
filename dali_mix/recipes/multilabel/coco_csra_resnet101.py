"""COCO 2014, ResNet-101, CSRA at 448 pixels.

Command:  dali-mix train multilabel/coco_csra_resnet101 --work-dir work_dirs/coco_csra_resnet101
Hardware: 1 GPU
Source:   CSRA (arXiv 2108.02456), table of results on COCO. The released model of this figure has 4 heads: for it,
          --cfg-options model.head.num_heads=4 model.head.lam=0.5
Expected: mAP 83.3 % (published)
"""

from mmengine.config import read_base

with read_base():
    from ._csra import *

train_set = "data/coco2014_train"
val_set = "data/coco2014_val"
model = {
    "type": "multilabel",
    "backbone": {"type": "resnet101", "weights": "weights/resnet101.pth"},
    "head": {"type": "csra", "num_heads": 6, "lam": 0.4},
}
