"""CIFAR-100, ResNet-50 with a CIFAR stem, SaliencyMix on half of the batches.

Command:  dali-mix train cifar100/resnet50_saliencymix --work-dir work_dirs/cifar100_resnet50_saliencymix
Hardware: 1 GPU, 16 GB
Source:   SaliencyMix (arXiv 2006.01791), comparison on CIFAR-100
Expected: not stated in the project's table of published figures; to be measured
"""

from mmengine.config import read_base

with read_base():
    from ._saliencymix import *

model = {"type": "cifar_resnet50"}
