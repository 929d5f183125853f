"""COCO 2014, ResNet-101, {title} at 448 pixels.

Command:  scripts/train_dist.sh multilabel/coco_splicemix:{variant} 2 --work-dir work_dirs/coco_splicemix_{variant}
Hardware: 2 GPUs × 16 images
Source:   {source}
Expected: {expected}
"""

from mmengine.config import read_base

with read_base():
    from ._splicemix import *

train_set = "data/coco2014_train"
val_set = "data/coco2014_val"
VARIANTS = {
    "cl_resnet101": {
        "about": {
            "title": "SpliceMix-CL",
            "source": "SpliceMix (arXiv 2311.15200), SpliceMix-CL on COCO 2014",
            "expected": "mAP 84.8% (published)",
        },
        "objective": {"type": "SpliceMixConsistency", "detach": True},
    },
    "resnet101": {
        "about": {
            "title": "SpliceMix",
            "source": "SpliceMix (arXiv 2311.15200), SpliceMix on COCO 2014",
            "expected": "mAP 84.1% (published)",
        },
    },
}
