"""Common settings of the ImageNet recipes with ResNets: ResizeMix's protocol (arXiv 2012.11101, section 4.2)."""

train_set = "data/imagenet_train"
val_set = "data/imagenet_val"
pipeline = {"type": "imagenet", "preset": "resizemix"}
batch_size = 512
epochs = 300
seed = 0
model = {"type": "torchvision/resnet50"}
optimizer = {"type": "SGD", "lr": 0.5, "momentum": 0.9, "weight_decay": 4e-5}
schedule = {"type": "cosine", "min_lr": 1e-5}
checkpoint = {"interval_epochs": 1, "interval_steps": 1000, "keep": 2, "best": "top1"}
