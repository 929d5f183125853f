"""VOC2007, {title} pixels.

Command:  scripts/train_dist.sh multilabel/voc2007_sgre:{variant} {gpus} --work-dir work_dirs/voc2007_sgre_{variant}
Hardware: {hardware}
Source:   SGRE (IEEE TCSVT 2024) on VOC2007{source}
Expected: the paper's mAP; we have no published figure at hand
"""

from mmengine.config import read_base

with read_base():
    from ._sgre import *

train_set = "data/voc2007_trainval"
val_set = "data/voc2007_test"
model = {"type": "multilabel", "head": {"type": "sgre", "embeddings": "data/voc2007_bert.npy"}}
loss = {"type": "SGRELoss", "lam": 0.1}
ema = 0.9983
VARIANTS = {
    "resnet101": {
        "about": {
            "title": "ResNet-101, SGRE at 448",
            "gpus": 4,
            "hardware": "4 GPUs × 32 images",
            "source": "; label embeddings by `dali-mix embed-labels --from bert`",
        },
        "model.backbone": {"type": "resnet101", "weights": "weights/resnet101.pth"},
    },
    "swin_l_384": {
        "about": {
            "title": "Swin-L/4-384, SGRE at 384",
            "gpus": 8,
            "hardware": "8 GPUs × 16 images",
            "source": (
                "; label embeddings by `dali-mix embed-labels --from bert`; our choice: 384 pixels, as its "
                "windows were trained, not 448"
            ),
        },
        "pipeline.image_size": 384,
        "model.backbone": {"type": "swin_large_patch4_window12_384", "weights": "weights/swin_large_384.safetensors"},
    },
    "tresnet_l": {
        "about": {
            "title": "TResNet-L, SGRE at 448",
            "gpus": 4,
            "hardware": "4 GPUs × 32 images",
            "source": (
                "; label embeddings by `dali-mix embed-labels --from bert`; our choice: pixels in 0..1, as "
                "its weights were trained"
            ),
        },
        "pipeline.normalization": "none",
        "model.backbone": {"type": "tresnet_l", "weights": "weights/tresnet_l.safetensors"},
    },
    "vit_l16": {
        "about": {
            "title": "ViT-L/16, SGRE at 448",
            "gpus": 8,
            "hardware": "8 GPUs × 16 images",
            "source": (
                "; label embeddings by `dali-mix embed-labels --from bert`. With weights of ImageNet-21k: "
                "--cfg-options model.backbone.weights=FILE"
            ),
        },
        "model.backbone": {"type": "vit_large_patch16_224", "weights": "weights/vit_large_patch16_224.safetensors"},
    },
}
