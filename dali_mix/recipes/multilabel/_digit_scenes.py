"""What the recipes on digit scenes share: a set packed offline, and a small model without pretrained weights."""

train_set = "data/scenes_train"
val_set = "data/scenes_val"
# Half the size of the scenes; a mirrored digit is none.
pipeline = {"type": "multilabel", "image_size": (48, 64), "flip": 0.0}
batch_size = 32
val_batch_size = 100
epochs = 8
seed = 0
model = {
    "type": "multilabel",
    "backbone": {"type": "resnet10t", "output_stride": 8},
    "head": {"type": "csra", "num_heads": 1, "lam": 0.1},
}
optimizer = {"type": "AdamW", "lr": 2e-3, "weight_decay": 1e-2}
schedule = {"type": "onecycle", "pct_start": 0.2}
log_interval = 20
checkpoint = {"interval_epochs": 4, "keep": 2, "best": "mAP"}
