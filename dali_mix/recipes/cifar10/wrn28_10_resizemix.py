"""CIFAR-10, WRN-28-10, ResizeMix.

Command:  dali-mix train cifar10/wrn28_10_resizemix --work-dir work_dirs/cifar10_wrn28_10_resizemix
Hardware: 1 GPU, 16 GB
Source:   ResizeMix (arXiv 2012.11101), comparison on CIFAR-10
Expected: top-1 97.60 % (published)
"""

from mmengine.config import read_base

with read_base():
    from ._wrn28_10 import *

mixer = {"type": "ResizeMix", "scale": (0.1, 0.8), "per_batch": True}
