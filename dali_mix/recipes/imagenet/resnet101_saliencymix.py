"""ImageNet-1k, ResNet-101, SaliencyMix on every batch.

Command:  scripts/train_dist.sh imagenet/resnet101_saliencymix 8 --work-dir work_dirs/imagenet_resnet101_saliencymix
Hardware: 8 GPUs × 32 images
Source:   SaliencyMix (arXiv 2006.01791), comparison on ImageNet
Expected: top-1 79.91 % (published)
"""

from mmengine.config import read_base

with read_base():
    from ._saliencymix import *

model = {"type": "torchvision/resnet101"}
