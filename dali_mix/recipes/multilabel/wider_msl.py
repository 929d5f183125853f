"""WIDER-Attribute, {title}, CSRA head, masked supervision at 224 pixels.

Command:  dali-mix train multilabel/wider_msl:{variant} --work-dir work_dirs/wider_msl_{variant}
Hardware: 1 GPU; two forward passes per image
Source:   MSL (arXiv 2310.18517); batch size 10 from the released VOC2007 command{source}
Expected: the paper's best mAP on WIDER-Attribute is 90.6%; no published figure for this backbone
"""

from mmengine.config import read_base

with read_base():
    from ._msl import *

train_set = "data/wider_trainval"
val_set = "data/wider_test"
# Each image shows one person and is already cropped to the person's box.
pipeline = {"type": "multilabel", "image_size": 224, "crop": "none", "normalization": "half"}
model = {"type": "multilabel", "head": {"type": "csra", "num_heads": 1, "lam": 0.3}}
metrics = {"protocol": "wider"}
VARIANTS = {
    "resnet101_cutmix": {
        "about": {
            "title": "ResNet-101 (CutMix weights)",
            "source": "; 30 epochs and heads are our choice, as in CSRA; so is the normalization",
        },
        "model.backbone": {"type": "resnet101", "weights": "weights/resnet101_cutmix.pth"},
    },
    "tresnet_l": {
        "about": {
            "title": "TResNet-L",
            "source": "; 30 epochs and heads are our choice, as in CSRA; so is the normalization",
        },
        "model.backbone": {"type": "tresnet_l", "weights": "weights/tresnet_l.safetensors"},
    },
    "tresnet_m": {
        "about": {
            "title": "TResNet-M",
            "source": "; 30 epochs and heads are our choice, as in CSRA; so is the normalization",
        },
        "model.backbone": {"type": "tresnet_m", "weights": "weights/tresnet_m.safetensors"},
    },
    "tresnet_xl": {
        "about": {
            "title": "TResNet-XL",
            "source": "; 30 epochs and heads are our choice, as in CSRA; so is the normalization",
        },
        "model.backbone": {"type": "tresnet_xl", "weights": "weights/tresnet_xl.safetensors"},
    },
    "vit_b16": {
        "about": {"title": "ViT-B/16", "source": "; 30 epochs and heads are our choice, as in CSRA"},
        "model.backbone": {"type": "vit_base_patch16_224", "weights": "weights/vit_base_patch16_224.safetensors"},
    },
    "vit_l16": {
        "about": {"title": "ViT-L/16", "source": "; 30 epochs and heads are our choice, as in CSRA"},
        "model.backbone": {"type": "vit_large_patch16_224", "weights": "weights/vit_large_patch16_224.safetensors"},
    },
}
