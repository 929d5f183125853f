"""COCO 2014, ResNet-101, SpliceMix-CL at 448 pixels.

Command:  scripts/train_dist.sh multilabel/coco_splicemix_cl_resnet101 2 --work-dir work_dirs/coco_splicemix_cl
Hardware: 2 GPUs × 16 images
Source:   SpliceMix (arXiv 2311.15200), SpliceMix-CL on COCO 2014
Expected: mAP 84.8 % (published)
"""

from mmengine.config import read_base

with read_base():
    from ._splicemix import *

train_set = "data/coco2014_train"
val_set = "data/coco2014_val"
objective = {"type": "SpliceMixConsistency", "detach": True}
