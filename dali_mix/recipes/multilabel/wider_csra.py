"""WIDER-Attribute, {title}, CSRA at 224 pixels.

Command:  dali-mix train multilabel/wider_csra:{variant} --work-dir work_dirs/wider_csra_{variant}
Hardware: 1 GPU
Source:   CSRA (arXiv 2108.02456), table of results on WIDER-Attribute. The paper does not state the number
          of epochs for ViTs, so its number for ResNets is used
Expected: {expected}
"""

from mmengine.config import read_base

with read_base():
    from ._csra import *

train_set = "data/wider_trainval"
val_set = "data/wider_test"
# Each image shows one person and is already cropped to the person's box.
pipeline = {"type": "multilabel", "image_size": 224, "crop": "none", "normalization": "half"}
model = {"type": "multilabel", "head": {"type": "csra", "num_heads": 1, "lam": 0.3}}
metrics = {"protocol": "wider"}
VARIANTS = {
    "vit_b16": {
        "about": {"title": "ViT-B/16", "expected": "mAP 89.0% (published)"},
        "model.backbone": {"type": "vit_base_patch16_224", "weights": "weights/vit_base_patch16_224.safetensors"},
    },
    "vit_l16": {
        "about": {"title": "ViT-L/16", "expected": "mAP 90.2% (published)"},
        "model.backbone": {"type": "vit_large_patch16_224", "weights": "weights/vit_large_patch16_224.safetensors"},
    },
}
