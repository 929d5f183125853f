"""CIFAR-10, {title}, SaliencyMix on half of the batches.

Command:  dali-mix train cifar10/saliencymix:{variant} --work-dir work_dirs/cifar10_saliencymix_{variant}
Hardware: 1 GPU, 16 GB
Source:   SaliencyMix (arXiv 2006.01791), comparison on CIFAR-10
Expected: {expected}
"""

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
VARIANTS = {
    "resnet50": {
        "about": {
            "title": "ResNet-50 with a CIFAR stem",
            "expected": "no published figure recorded; to be measured",
        },
        "model": {"type": "cifar_resnet50"},
    },
    "wrn28_10": {
        "about": {"title": "WRN-28-10 with dropout", "expected": "top-1 97.24% (published)"},
        "model": {"type": "wrn-28-10", "dropout": 0.3},
    },
}
