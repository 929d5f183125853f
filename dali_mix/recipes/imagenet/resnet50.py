"""ImageNet-1k, ResNet-50, {title}.

Command:  scripts/train_dist.sh imagenet/resnet50:{variant} 8 --work-dir work_dirs/imagenet_resnet50_{variant}
Hardware: 8 GPUs × 64 images
Source:   ResizeMix (arXiv 2012.11101), comparison on ImageNet
Expected: {expected}
"""

from mmengine.config import read_base

with read_base():
    from ._resnet import *

VARIANTS = {
    "baseline": {
        "about": {"title": "no mixing", "expected": "top-1 76.31% (published)"},
        "mixer": None,
    },
    "cutmix": {
        "about": {"title": "CutMix on every batch", "expected": "top-1 78.60% (published)"},
        "mixer": {"type": "CutMix", "alpha": 1.0, "per_batch": True},
    },
    "resizemix": {
        "about": {"title": "ResizeMix", "expected": "top-1 79.00% (published)"},
        "mixer": {"type": "ResizeMix", "scale": (0.1, 0.8), "per_batch": True},
    },
}
