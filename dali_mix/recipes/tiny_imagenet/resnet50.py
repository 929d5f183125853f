"""tiny-ImageNet, ResNet-50, no mixing: the protocol of SaliencyMix.

Command:  dali-mix train tiny_imagenet/resnet50 --work-dir work_dirs/tiny_imagenet_resnet50
Hardware: 1 GPU, 24 GB
Source:   SaliencyMix (arXiv 2006.01791), tiny-ImageNet
Expected: no published figure recorded; to be measured
"""

train_set = "data/tiny_imagenet_train"
val_set = "data/tiny_imagenet_val"
pipeline = {"type": "imagenet", "image_size": 64}
train_pipeline = {"color_jitter": 0.4, "pca_lighting": 0.1}
batch_size = 256
epochs = 300
seed = 0
model = {"type": "torchvision/resnet50"}
optimizer = {"type": "SGD", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
schedule = {"type": "step", "milestones": [75, 150, 225], "gamma": 0.1}
checkpoint = {"interval_epochs": 1, "keep": 2, "best": "top1"}
