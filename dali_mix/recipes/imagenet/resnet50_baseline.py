"""ImageNet-1k, ResNet-50, no mixing.

Command:  scripts/train_dist.sh imagenet/resnet50_baseline 8 --work-dir work_dirs/imagenet_resnet50_baseline
Hardware: 8 GPUs × 64 images
Source:   ResizeMix (arXiv 2012.11101), comparison on ImageNet
Expected: top-1 76.31 % (published)
"""

from mmengine.config import read_base

with read_base():
    from ._resnet import *

model = {"type": "torchvision/resnet50"}
mixer = None
