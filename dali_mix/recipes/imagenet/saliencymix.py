"""ImageNet-1k, {title}, SaliencyMix on every batch.

Command:  scripts/train_dist.sh imagenet/saliencymix:{variant} 8 --work-dir work_dirs/imagenet_saliencymix_{variant}
Hardware: 8 GPUs × 32 images
Source:   SaliencyMix (arXiv 2006.01791), comparison on ImageNet
Expected: {expected}
"""

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
VARIANTS = {
    "resnet50": {
        "about": {"title": "ResNet-50", "expected": "top-1 78.74% (published)"},
        "model": {"type": "torchvision/resnet50"},
    },
    "resnet101": {
        "about": {"title": "ResNet-101", "expected": "top-1 79.91% (published)"},
        "model": {"type": "torchvision/resnet101"},
    },
}
