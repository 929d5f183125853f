"""ImageNet-1k, ResNet-50, CutMix on every batch.

Command:  scripts/train_dist.sh imagenet/resnet50_cutmix 8 --work-dir work_dirs/imagenet_resnet50_cutmix
Hardware: 8 GPUs × 64 images
Source:   ResizeMix (arXiv 2012.11101), comparison on ImageNet
Expected: top-1 78.60 % (published)
"""

from mmengine.config import read_base

with read_base():
    from ._resnet import *

model = {"type": "torchvision/resnet50"}
mixer = {"type": "CutMix", "alpha": 1.0, "per_batch": True}
