"""Common settings of the CSRA recipes: CSRA's protocol (arXiv 2108.02456, section 4) and the defaults of its code."""

pipeline = {
    "type": "multilabel",
    "image_size": 448,
    "crop": "random-resized",
    "scale": (0.7, 1.0),
    "normalization": "none",
}
batch_size = 16
epochs = 30
seed = 0
loss = {"type": "BinaryCrossEntropy"}
metrics = {"protocol": "plain"}
optimizer = {"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
paramwise = {"custom": {"head": {"lr_mult": 10}}}
schedule = {"type": "step", "milestones": [5, 10, 15, 20, 25], "gamma": 0.1, "warmup_epochs": 2}
checkpoint = {"interval_epochs": 1, "keep": 2, "best": "mAP"}
