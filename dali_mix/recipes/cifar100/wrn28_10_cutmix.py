"""CIFAR-100, WRN-28-10, CutMix on half of the batches.

Command:  dali-mix train cifar100/wrn28_10_cutmix --work-dir work_dirs/cifar100_wrn28_10_cutmix
Hardware: 1 GPU, 16 GB
Source:   ResizeMix (arXiv 2012.11101), comparison on CIFAR-100
Expected: top-1 83.40 % (published)
"""

from mmengine.config import read_base

with read_base():
    from ._wrn28_10 import *

mixer = {"type": "MixChoice", "mixers": [{"type": "CutMix", "alpha": 1.0, "per_batch": True}], "probs": [0.5]}
