"""CIFAR-100, WRN-28-10, {title}.

Command:  dali-mix train cifar100/wrn28_10:{variant} --work-dir work_dirs/cifar100_wrn28_10_{variant}
Hardware: {hardware}
Source:   {source}
Expected: {expected}
"""

train_set = "data/cifar100_train"
val_set = "data/cifar100_val"
pipeline = {"type": "cifar", "mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762)}
batch_size = 256
epochs = 200
seed = 0
model = {"type": "wrn-28-10"}
optimizer = {"type": "SGD", "lr": 0.2, "momentum": 0.9, "weight_decay": 5e-4}
schedule = {"type": "cosine", "warmup_epochs": 5, "min_lr": 1e-5}
checkpoint = {"interval_epochs": 5, "keep": 2, "best": "top1"}
VARIANTS = {
    "baseline": {
        "about": {
            "title": "no mixing",
            "hardware": "1 GPU, 16 GB",
            "source": "ResizeMix (arXiv 2012.11101), comparison on CIFAR-100",
            "expected": "top-1 81.20% (published)",
        },
        "mixer": None,
    },
    "cutout": {
        "about": {
            "title": "Cutout, side 16",
            "hardware": "1 GPU, 16 GB",
            "source": "ResizeMix (arXiv 2012.11101), comparison on CIFAR-100",
            "expected": "top-1 81.59% (published)",
        },
        "mixer": {"type": "Cutout", "size": 16},
    },
    "cutmix": {
        "about": {
            "title": "CutMix on half of the batches",
            "hardware": "1 GPU, 16 GB",
            "source": "ResizeMix (arXiv 2012.11101), comparison on CIFAR-100",
            "expected": "top-1 83.40% (published)",
        },
        "mixer": {"type": "MixChoice", "mixers": [{"type": "CutMix", "alpha": 1.0, "per_batch": True}], "probs": [0.5]},
    },
    "resizemix": {
        "about": {
            "title": "ResizeMix",
            "hardware": "1 GPU, 16 GB",
            "source": "ResizeMix (arXiv 2012.11101), comparison on CIFAR-100",
            "expected": "top-1 84.31% (published)",
        },
        "mixer": {"type": "ResizeMix", "scale": (0.1, 0.8), "per_batch": True},
    },
    "resizemix_plus": {
        "about": {
            "title": "ResizeMix+",
            "hardware": "1 GPU, 24 GB: two views give 512 images per step",
            "source": "ResizeMix (arXiv 2012.11101), comparison on CIFAR-100; RandAugment with N = 2, M = 14",
            "expected": "top-1 85.23% (published)",
        },
        "mixer": {
            "type": "ResizeMixPlus",
            "scale": (0.1, 0.8),
            "per_batch": True,
            "num_ops": 2,
            "magnitude": 14,
            "views": 2,
        },
    },
}
