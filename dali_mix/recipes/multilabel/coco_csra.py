"""COCO 2014, {title}, CSRA at 448 pixels.

Command:  {command} --work-dir work_dirs/coco_csra_{variant}
Hardware: {hardware}
Source:   {source}
Expected: {expected}
"""

from mmengine.config import read_base

with read_base():
    from ._csra import *

train_set = "data/coco2014_train"
val_set = "data/coco2014_val"
model = {"type": "multilabel", "head": {"type": "csra"}}
VARIANTS = {
    "resnet101": {
        "about": {
            "title": "ResNet-101",
            "command": "dali-mix train multilabel/coco_csra:resnet101",
            "hardware": "1 GPU",
            "source": (
                "CSRA (arXiv 2108.02456), table of results on COCO. The released model with this result has 4 "
                "heads; to load it, --cfg-options model.head.num_heads=4 model.head.lam=0.5"
            ),
            "expected": "mAP 83.3% (published)",
        },
        "model.backbone": {"type": "resnet101", "weights": "weights/resnet101.pth"},
        "model.head.num_heads": 6,
        "model.head.lam": 0.4,
    },
    "resnet101_cutmix": {
        "about": {
            "title": "ResNet-101 (CutMix weights)",
            "command": "dali-mix train multilabel/coco_csra:resnet101_cutmix",
            "hardware": "1 GPU",
            "source": "CSRA (arXiv 2108.02456), table of results on COCO",
            "expected": "mAP 85.6% (published)",
        },
        "model.backbone": {"type": "resnet101", "weights": "weights/resnet101_cutmix.pth"},
        "model.head.num_heads": 6,
        "model.head.lam": 0.4,
    },
    "vit_l16": {
        "about": {
            "title": "ViT-L/16",
            "command": "scripts/train_dist.sh multilabel/coco_csra:vit_l16 2",
            "hardware": "2 GPUs × 8 images",
            "source": (
                "CSRA (arXiv 2108.02456), table of results on COCO; batch size and epochs, which it does not "
                "state for ViTs, are those of its ResNets"
            ),
            "expected": "mAP 86.5% (published)",
        },
        "model.backbone": {"type": "vit_large_patch16_224", "weights": "weights/vit_large_patch16_224.safetensors"},
        "model.head.num_heads": 8,
        "model.head.lam": 1.0,
    },
}
