"""ImageNet-1k, ResNet-101, ResizeMix.

Command:  scripts/train_dist.sh imagenet/resnet101_resizemix 8 --work-dir work_dirs/imagenet_resnet101_resizemix
Hardware: 8 GPUs × 64 images
Source:   ResizeMix (arXiv 2012.11101), comparison on ImageNet
Expected: top-1 80.54 % (published)
"""

from mmengine.config import read_base

with read_base():
    from ._resnet import *

model = {"type": "torchvision/resnet101"}
mixer = {"type": "ResizeMix", "scale": (0.1, 0.8), "per_batch": True}
