"""Common settings of the SGRE recipes: the protocol of SGRE (IEEE TCSVT 2024) and its backbones as variants.

The protocol includes the released code's defaults. RandAugment's 2 operations of magnitude 9 are our choice.
"""

pipeline = {
    "type": "multilabel",
    "image_size": 448,
    "crop": "none",
    "cutout": 0.5,
    "auto_augment": "randaugment",
    "normalization": "imagenet",
}
batch_size = 128
epochs = 60
seed = 0
metrics = {"protocol": "voc12"}
optimizer = {"type": "AdamW", "lr": 9e-5, "weight_decay": 1e-4}
schedule = {"type": "onecycle", "pct_start": 0.2}
ema = 0.9997
sync_bn = True
checkpoint = {"interval_epochs": 1, "keep": 2, "best": "ema_mAP"}
VARIANTS = {
    "resnet101": {
        "about": {
            "title": "ResNet-101, SGRE at 448",
            "gpus": 4,
            "hardware": "4 GPUs × 32 images",
            "source": "",
        },
        "model.backbone": {"type": "resnet101", "weights": "weights/resnet101.pth"},
    },
    "swin_l_384": {
        "about": {
            "title": "Swin-L/4-384, SGRE at 384",
            "gpus": 8,
            "hardware": "8 GPUs × 16 images",
            "source": "; our choice: 384 pixels, as its windows were trained, instead of 448",
        },
        "pipeline.image_size": 384,
        "model.backbone": {"type": "swin_large_patch4_window12_384", "weights": "weights/swin_large_384.safetensors"},
    },
    "tresnet_l": {
        "about": {
            "title": "TResNet-L, SGRE at 448",
            "gpus": 4,
            "hardware": "4 GPUs × 32 images",
            "source": "; our choice: pixels in 0..1, as its weights were trained",
        },
        "pipeline.normalization": "none",
        "model.backbone": {"type": "tresnet_l", "weights": "weights/tresnet_l.safetensors"},
    },
    "vit_l16": {
        "about": {
            "title": "ViT-L/16, SGRE at 448",
            "gpus": 8,
            "hardware": "8 GPUs × 16 images",
            "source": ". With weights of ImageNet-21k: --cfg-options model.backbone.weights=FILE",
        },
        "model.backbone": {"type": "vit_large_patch16_224", "weights": "weights/vit_large_patch16_224.safetensors"},
    },
}
