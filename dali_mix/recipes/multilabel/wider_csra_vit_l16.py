"""WIDER-Attribute, ViT-L/16, CSRA at 224 pixels.

Command:  dali-mix train multilabel/wider_csra_vit_l16 --work-dir work_dirs/wider_csra_vit_l16
Hardware: 1 GPU
Source:   CSRA (arXiv 2108.02456), table of results on WIDER-Attribute; epochs, which it does not give for ViTs, as its
          ResNets'
Expected: mAP 90.2 % (published)
"""

from mmengine.config import read_base

with read_base():
    from ._csra import *

train_set = "data/wider_trainval"
val_set = "data/wider_test"
# Persons, already cropped to their boxes.
pipeline = {"type": "multilabel", "image_size": 224, "crop": "none", "normalization": "half"}
metrics = {"protocol": "wider"}
model = {
    "type": "multilabel",
    "backbone": {"type": "vit_large_patch16_224", "weights": "weights/vit_large_patch16_224.safetensors"},
    "head": {"type": "csra", "num_heads": 1, "lam": 0.3},
}
