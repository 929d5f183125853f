"""CIFAR-100, Shake-Shake 26 2×96d, ResizeMix.

Command:  dali-mix train cifar100/shakeshake26_2x96d_resizemix --work-dir work_dirs/cifar100_shakeshake_resizemix
Hardware: 1 GPU, 16 GB
Source:   ResizeMix (arXiv 2012.11101), comparison on CIFAR-100
Expected: not stated in the project's table of published figures; to be measured
"""

from mmengine.config import read_base

with read_base():
    from ._shakeshake26_2x96d import *

mixer = {"type": "ResizeMix", "scale": (0.1, 0.8), "per_batch": True}
