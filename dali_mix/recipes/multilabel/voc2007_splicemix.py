"""VOC2007, ResNet-101, {title} at 448 pixels.

Command:  dali-mix train multilabel/voc2007_splicemix:{variant} --work-dir work_dirs/voc2007_splicemix_{variant}
Hardware: 1 GPU
Source:   {source}
Expected: a higher mAP than the plain ResNet-101; no published figure found for VOC2007
"""

from mmengine.config import read_base

with read_base():
    from ._splicemix import *

train_set = "data/voc2007_trainval"
val_set = "data/voc2007_test"
batch_size = 16
optimizer = {"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
schedule = {"type": "step", "milestones": [40, 60], "gamma": 0.1}
amp = "off"
clip_grad_norm = 10.0
VARIANTS = {
    "cl_resnet101": {
        "about": {"title": "SpliceMix-CL", "source": "SpliceMix (arXiv 2311.15200), SpliceMix-CL on VOC2007"},
        # As published for VOC: gradients of the consistency term also reach the regular images.
        "objective": {"type": "SpliceMixConsistency", "detach": False},
    },
    "resnet101": {
        "about": {"title": "SpliceMix", "source": "SpliceMix (arXiv 2311.15200), SpliceMix on VOC2007"},
    },
}
