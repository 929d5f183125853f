"""What the recipes of SGRE share: its protocol (semantic-guided representation enhancement, IEEE TCSVT 2024, and the
released code's defaults). RandAugment's 2 operations of magnitude 9 are our choice.
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
