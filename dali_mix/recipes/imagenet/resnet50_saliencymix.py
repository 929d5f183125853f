"""ImageNet-1k, ResNet-50, SaliencyMix on every batch.

Command:  scripts/train_dist.sh imagenet/resnet50_saliencymix 8 --work-dir work_dirs/imagenet_resnet50_saliencymix
Hardware: 8 GPUs × 32 images
Source:   SaliencyMix (arXiv 2006.01791), comparison on ImageNet
Expected: top-1 78.74 % (published)
"""

from mmengine.config import read_base

with read_base():
    from ._saliencymix import *

model = {"type": "torchvision/resnet50"}
