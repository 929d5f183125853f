"""COCO 2014, ViT-L/16, CSRA at 448 pixels.

Command:  scripts/train_dist.sh multilabel/coco_csra_vit_l16 2 --work-dir work_dirs/coco_csra_vit_l16
Hardware: 2 GPUs × 8 images
Source:   CSRA (arXiv 2108.02456), table of results on COCO; batch and epochs, which it does not give for ViTs, as its
          ResNets'
Expected: mAP 86.5 % (published)
"""

from mmengine.config import read_base

with read_base():
    from ._csra import *

train_set = "data/coco2014_train"
val_set = "data/coco2014_val"
model = {
    "type": "multilabel",
    "backbone": {"type": "vit_large_patch16_224", "weights": "weights/vit_large_patch16_224.safetensors"},
    "head": {"type": "csra", "num_heads": 8, "lam": 1.0},
}
