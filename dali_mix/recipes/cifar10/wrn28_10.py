"""CIFAR-10, WRN-28-10, {title}.

Command:  dali-mix train cifar10/wrn28_10:{variant} --work-dir work_dirs/cifar10_wrn28_10_{variant}
Hardware: 1 GPU, 16 GB
Source:   ResizeMix (arXiv 2012.11101), comparison on CIFAR-10
Expected: {expected}
"""

train_set = "data/cifar10_train"
val_set = "data/cifar10_val"
pipeline = {"type": "cifar"}
batch_size = 256
epochs = 200
seed = 0
model = {"type": "wrn-28-10"}
optimizer = {"type": "SGD", "lr": 0.2, "momentum": 0.9, "weight_decay": 5e-4}
schedule = {"type": "cosine", "warmup_epochs": 5, "min_lr": 1e-5}
checkpoint = {"interval_epochs": 5, "keep": 2, "best": "top1"}
VARIANTS = {
    "baseline": {
        "about": {"title": "no mixing", "expected": "top-1 96.13% (published)"},
        "mixer": None,
    },
    "cutout": {
        "about": {"title": "Cutout, side 16", "expected": "top-1 96.90% (published)"},
        "mixer": {"type": "Cutout", "size": 16},
    },
    "cutmix": {
        "about": {"title": "CutMix on half of the batches", "expected": "top-1 97.10% (published)"},
        "mixer": {"type": "MixChoice", "mixers": [{"type": "CutMix", "alpha": 1.0, "per_batch": True}], "probs": [0.5]},
    },
    "resizemix": {
        "about": {"title": "ResizeMix", "expected": "top-1 97.60% (published)"},
        "mixer": {"type": "ResizeMix", "scale": (0.1, 0.8), "per_batch": True},
    },
}
