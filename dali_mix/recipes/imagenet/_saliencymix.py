"""What the ImageNet recipes of SaliencyMix share: its protocol (arXiv 2006.01791, section 4.1)."""

train_set = "data/imagenet_train"
val_set = "data/imagenet_val"
pipeline = {"type": "imagenet"}
train_pipeline = {"color_jitter": 0.4, "pca_lighting": 0.1}
batch_size = 256
epochs = 300
seed = 0
mixer = {"type": "SaliencyMix", "alpha": 1.0, "per_batch": True}
optimizer = {"type": "SGD", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
schedule = {"type": "step", "milestones": [75, 150, 225], "gamma": 0.1}
checkpoint = {"interval_epochs": 1, "interval_steps": 1000, "keep": 2, "best": "top1"}
