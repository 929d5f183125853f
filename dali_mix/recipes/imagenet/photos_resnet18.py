"""Your own photos in class folders, a few hundred to a few thousand: ResNet-18 at 160 pixels with ResizeMix.

Command:  dali-mix pack imagefolder --root PHOTOS --split train --out data/photos_train
          dali-mix pack imagefolder --root PHOTOS_VAL --split val --out data/photos_val
          dali-mix train imagenet/photos_resnet18 --work-dir work_dirs/photos
Hardware: 2 CPU cores for a few hundred photos, else 1 GPU
Source:   none; image size, learning rate and epochs are our choice, for few images and random weights
Expected: depends on the set. Results are better from ImageNet weights in torchvision's format:
          --cfg-options weights=weights/resnet18.pth optimizer.lr=0.01
"""

train_set = "data/photos_train"
val_set = "data/photos_val"
pipeline = {"type": "imagenet", "image_size": 160}
train_pipeline = {"scale": (0.35, 1.0)}
batch_size = 32
epochs = 30
seed = 0
model = {"type": "torchvision/resnet18"}
mixer = {"type": "ResizeMix", "prob": 0.5}
mixer_until = 0.9
optimizer = {"type": "SGD", "lr": 0.04, "momentum": 0.9, "weight_decay": 5e-4}
schedule = {"type": "cosine", "warmup_epochs": 3}
log_interval = 10
checkpoint = {"interval_epochs": 5, "keep": 2}
