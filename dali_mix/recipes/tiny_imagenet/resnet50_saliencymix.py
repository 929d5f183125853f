"""tiny-ImageNet, ResNet-50, SaliencyMix on every batch.

Command:  dali-mix train tiny_imagenet/resnet50_saliencymix --work-dir work_dirs/tiny_imagenet_resnet50_saliencymix
Hardware: 1 GPU, 24 GB
Source:   SaliencyMix (arXiv 2006.01791), tiny-ImageNet
Expected: no published figure recorded; to be measured
"""

from mmengine.config import read_base

with read_base():
    from .resnet50 import *

mixer = {"type": "SaliencyMix", "alpha": 1.0, "per_batch": True}
