"""A few hundred ImageNet-like photos, ResNet-18 at 64 pixels: one epoch on a CPU, to test a packed set and a machine.

Command:  dali-mix pack imagefolder --root PHOTOS --out data/sample --split train
          dali-mix train imagenet/resnet18_sample --work-dir work_dirs/sample
Hardware: 2 CPU cores
Source:   none; a smoke test, with too few photos to learn from
Expected: the run finishes, and a run that is killed and resumed finishes with the same weights
"""

train_set = "data/sample"
val_set = None
pipeline = {"type": "imagenet", "image_size": 64}
batch_size = 16
epochs = 1
seed = 0
model = {"type": "torchvision/resnet18"}
mixer = {"type": "ResizeMix"}
optimizer = {"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
log_interval = 2
checkpoint = {"interval_steps": 2, "keep": 2, "best": None}
