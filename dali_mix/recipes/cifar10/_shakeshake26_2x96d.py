"""What the CIFAR-10 recipes with Shake-Shake 26 2×96d share: ResizeMix's protocol (arXiv 2012.11101, section 4.1)."""

train_set = "data/cifar10_train"
val_set = "data/cifar10_val"
pipeline = {"type": "cifar"}
batch_size = 256
epochs = 1800
seed = 0
model = {"type": "shakeshake26_2x96d"}
optimizer = {"type": "SGD", "lr": 0.04, "momentum": 0.9, "weight_decay": 1e-4}
schedule = {"type": "cosine", "warmup_epochs": 5, "min_lr": 1e-5}
evaluate_epochs = 5
checkpoint = {"interval_epochs": 5, "keep": 2, "best": "top1"}
