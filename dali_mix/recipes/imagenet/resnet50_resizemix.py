"""ImageNet-1k, ResNet-50, ResizeMix.

Command:  scripts/train_dist.sh imagenet/resnet50_resizemix 8 --work-dir work_dirs/imagenet_resnet50_resizemix
Hardware: 8 GPUs × 64 images
Source:   ResizeMix (arXiv 2012.11101), comparison on ImageNet
Expected: top-1 79.00 % (published)
"""

from mmengine.config import read_base

with read_base():
    from ._resnet import *

model = {"type": "torchvision/resnet50"}
mixer = {"type": "ResizeMix", "scale": (0.1, 0.8), "per_batch": True}
