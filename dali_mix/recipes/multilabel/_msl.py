"""Common settings of the masked-supervision recipes: the protocol of MSL (arXiv 2310.18517), which builds on CSRA's."""

pipeline = {
    "type": "multilabel",
    "image_size": 448,
    "crop": "random-resized",
    "scale": (0.7, 1.0),
    "normalization": "none",
}
batch_size = 10
epochs = 30
seed = 0
loss = {"type": "BinaryCrossEntropy"}
# "free-form" draws masks at random. Set a folder to use existing masks, such as those of the paper.
objective = {"type": "MaskedSupervision", "masks": "free-form", "whole": 0.3, "masked": 0.2, "agreement": 0.5}
metrics = {"protocol": "plain"}
optimizer = {"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
paramwise = {"custom": {"head": {"lr_mult": 10}}}
schedule = {"type": "step", "milestones": [5, 10, 15, 20, 25], "gamma": 0.1, "warmup_epochs": 2}
checkpoint = {"interval_epochs": 1, "keep": 2, "best": "mAP"}
