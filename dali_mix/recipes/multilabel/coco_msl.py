"""COCO 2014, {title}, CSRA head, masked supervision at 448 pixels.

Command:  dali-mix train multilabel/coco_msl:{variant} --work-dir work_dirs/coco_msl_{variant}
Hardware: 1 GPU; two forward passes per image
Source:   MSL (arXiv 2310.18517); batch size 10 from the released VOC2007 command{source}
Expected: the paper's best mAP on COCO 2014 is 86.4%; no published figure for this backbone
"""

from mmengine.config import read_base

with read_base():
    from ._msl import *

train_set = "data/coco2014_train"
val_set = "data/coco2014_val"
model = {"type": "multilabel", "head": {"type": "csra"}}
VARIANTS = {
    "resnet101_cutmix": {
        "about": {"title": "ResNet-101 (CutMix weights)", "source": "; 30 epochs and heads are our choice, as in CSRA"},
        "model.backbone": {"type": "resnet101", "weights": "weights/resnet101_cutmix.pth"},
        "model.head.num_heads": 6,
        "model.head.lam": 0.4,
    },
    "tresnet_l": {
        "about": {"title": "TResNet-L", "source": "; 30 epochs and heads are our choice, as in CSRA"},
        "model.backbone": {"type": "tresnet_l", "weights": "weights/tresnet_l.safetensors"},
        "model.head.num_heads": 6,
        "model.head.lam": 0.4,
    },
    "tresnet_m": {
        "about": {"title": "TResNet-M", "source": "; 30 epochs and heads are our choice, as in CSRA"},
        "model.backbone": {"type": "tresnet_m", "weights": "weights/tresnet_m.safetensors"},
        "model.head.num_heads": 6,
        "model.head.lam": 0.4,
    },
    "tresnet_xl": {
        "about": {"title": "TResNet-XL", "source": "; 30 epochs and heads are our choice, as in CSRA"},
        "model.backbone": {"type": "tresnet_xl", "weights": "weights/tresnet_xl.safetensors"},
        "model.head.num_heads": 6,
        "model.head.lam": 0.4,
    },
    "vit_b16": {
        "about": {"title": "ViT-B/16", "source": "; 30 epochs, heads and image size are our choice, as in CSRA"},
        "model.backbone": {"type": "vit_base_patch16_224", "weights": "weights/vit_base_patch16_224.safetensors"},
        "model.head.num_heads": 8,
        "model.head.lam": 1.0,
    },
    "vit_l16": {
        "about": {"title": "ViT-L/16", "source": "; 30 epochs, heads and image size are our choice, as in CSRA"},
        "model.backbone": {"type": "vit_large_patch16_224", "weights": "weights/vit_large_patch16_224.safetensors"},
        "model.head.num_heads": 8,
        "model.head.lam": 1.0,
    },
}
