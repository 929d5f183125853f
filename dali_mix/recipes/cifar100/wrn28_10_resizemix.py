"""CIFAR-100, WRN-28-10, ResizeMix.

Command:  dali-mix train cifar100/wrn28_10_resizemix --work-dir work_dirs/cifar100_wrn28_10_resizemix
Hardware: 1 GPU, 16 GB
Source:   ResizeMix (arXiv 2012.11101), comparison on CIFAR-100
Expected: top-1 84.31 % (published)
"""

from mmengine.config import read_base

with read_base():
    from ._wrn28_10 import *

mixer = {"type": "ResizeMix", "scale": (0.1, 0.8), "per_batch": True}
