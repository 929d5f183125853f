"""CIFAR-100, WRN-28-10, ResizeMix+.

Command:  dali-mix train cifar100/wrn28_10_resizemix_plus --work-dir work_dirs/cifar100_wrn28_10_resizemix_plus
Hardware: 1 GPU, 24 GB: two views make 512 images a step
Source:   ResizeMix (arXiv 2012.11101), comparison on CIFAR-100; RandAugment with N = 2, M = 14
Expected: top-1 85.23 % (published)
"""

from mmengine.config import read_base

with read_base():
    from ._wrn28_10 import *

mixer = {
    "type": "ResizeMixPlus",
    "scale": (0.1, 0.8),
    "per_batch": True,
    "num_ops": 2,
    "magnitude": 14,
    "views": 2,
}
