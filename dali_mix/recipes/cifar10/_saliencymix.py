"""What the CIFAR-10 recipes of SaliencyMix share: its protocol (arXiv 2006.01791, section 4.1)."""

train_set = "data/cifar10_train"
val_set = "data/cifar10_val"
pipeline = {"type": "cifar"}
batch_size = 128
epochs = 200
seed = 0
mixer = {"type": "MixChoice", "mixers": [{"type": "SaliencyMix", "alpha": 1.0, "per_batch": True}], "probs": [0.5]}
optimizer = {"type": "SGD", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
schedule = {"type": "step", "milestones": [60, 120, 160], "gamma": 0.2}
checkpoint = {"interval_epochs": 5, "keep": 2, "best": "top1"}
