"""ImageNet-1k, ResNet-101, no mixing.

Command:  scripts/train_dist.sh imagenet/resnet101_baseline 8 --work-dir work_dirs/imagenet_resnet101_baseline
Hardware: 8 GPUs × 64 images
Source:   ResizeMix (arXiv 2012.11101), comparison on ImageNet
Expected: top-1 78.13 % (published)
"""

from mmengine.config import read_base

with read_base():
    from ._resnet import *

model = {"type": "torchvision/resnet101"}
mixer = None
