"""Common settings of the SpliceMix and SpliceMix-CL recipes: SpliceMix's protocol (arXiv 2311.15200, section 4)."""

pipeline = {"type": "multilabel", "image_size": 448, "crop": "multi-scale", "normalization": "imagenet"}
batch_size = 32
epochs = 80
seed = 0
model = {
    "type": "multilabel",
    "backbone": {"type": "resnet101", "weights": "weights/resnet101.pth"},
    "head": "max",
}
mixer = {"type": "SpliceMix", "grids": "default"}
loss = {"type": "MultiLabelSoftMargin"}
metrics = {"protocol": "plain"}
optimizer = {"type": "SGD", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}
paramwise = {"custom": {"backbone": {"lr_mult": 0.1}}}
schedule = {"type": "step", "milestones": [40, 60], "gamma": 0.1, "warmup_epochs": 3}
checkpoint = {"interval_epochs": 1, "keep": 2, "best": "mAP"}
