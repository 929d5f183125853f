"""CIFAR-10, WRN-28-10 with dropout, SaliencyMix on half of the batches.

Command:  dali-mix train cifar10/wrn28_10_saliencymix --work-dir work_dirs/cifar10_wrn28_10_saliencymix
Hardware: 1 GPU, 16 GB
Source:   SaliencyMix (arXiv 2006.01791), comparison on CIFAR-10
Expected: top-1 97.24 % (published)
"""

from mmengine.config import read_base

with read_base():
    from ._saliencymix import *

model = {"type": "wrn-28-10", "dropout": 0.3}
