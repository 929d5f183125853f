"""CIFAR-10 with ResizeMix, small enough for a CPU: the next step after the quickstart on digits.

Command:  dali-mix pack cifar10 --root data/cifar10 --download --out data/cifar10_train --split train
          dali-mix pack cifar10 --root data/cifar10 --out data/cifar10_val --split val
          dali-mix train quickstart_cifar10 --work-dir work_dirs/quickstart_cifar10
Hardware: 2 CPU cores, no GPU; seconds on a GPU
Source:   mixer of ResizeMix (arXiv 2012.11101, section 3), a small model, a short schedule; no published figure
Expected: top-1 above 60% after 3 epochs; the published protocol is cifar10/wrn28_10:resizemix
"""

train_set = "data/cifar10_train"
val_set = "data/cifar10_val"
pipeline = {"type": "cifar"}
batch_size = 128
val_batch_size = 500
epochs = 3
seed = 0
model = {"type": "wrn-16-2"}
mixer = {"type": "MixChoice", "mixers": [{"type": "ResizeMix"}], "probs": [0.5]}
optimizer = {"type": "SGD", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
schedule = {"type": "cosine", "warmup_epochs": 0.3, "min_lr": 1e-4}
ema = 0.995
log_interval = 20
checkpoint = {"interval_epochs": 1, "interval_steps": 200, "keep": 2, "best": "top1"}
