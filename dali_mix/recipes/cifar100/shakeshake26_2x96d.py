"""CIFAR-100, Shake-Shake 26 2×96d, {title}.

Command:  dali-mix train cifar100/shakeshake26_2x96d:{variant} --work-dir work_dirs/cifar100_shakeshake_{variant}
Hardware: 1 GPU, 16 GB
Source:   ResizeMix (arXiv 2012.11101), comparison on CIFAR-100
Expected: no published figure recorded; to be measured
"""

train_set = "data/cifar100_train"
val_set = "data/cifar100_val"
pipeline = {"type": "cifar", "mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762)}
batch_size = 256
epochs = 1800
seed = 0
model = {"type": "shakeshake26_2x96d"}
optimizer = {"type": "SGD", "lr": 0.04, "momentum": 0.9, "weight_decay": 1e-4}
schedule = {"type": "cosine", "warmup_epochs": 5, "min_lr": 1e-5}
evaluate_epochs = 5
checkpoint = {"interval_epochs": 5, "keep": 2, "best": "top1"}
VARIANTS = {
    "baseline": {
        "about": {"title": "no mixing"},
        "mixer": None,
    },
    "cutout": {
        "about": {"title": "Cutout, side 16"},
        "mixer": {"type": "Cutout", "size": 16},
    },
    "cutmix": {
        "about": {"title": "CutMix on half of the batches"},
        "mixer": {"type": "MixChoice", "mixers": [{"type": "CutMix", "alpha": 1.0, "per_batch": True}], "probs": [0.5]},
    },
    "resizemix": {
        "about": {"title": "ResizeMix"},
        "mixer": {"type": "ResizeMix", "scale": (0.1, 0.8), "per_batch": True},
    },
}
