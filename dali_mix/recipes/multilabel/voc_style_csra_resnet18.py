"""Your own images with several labels, annotated in VOC's format: ResNet-18, CSRA at 224 pixels.

Command:  dali-mix pack voc --root MY_SET --task multilabel --classes auto --split train --out data/mine_train
          dali-mix pack voc --root MY_SET --task multilabel --classes auto --split test --out data/mine_val
          dali-mix train multilabel/voc_style_csra_resnet18 --work-dir work_dirs/mine
Hardware: 2 CPU cores for a few hundred images, else 1 GPU
Source:   CSRA (arXiv 2108.02456) with a smaller backbone; image size, learning rates and epochs are our choice, for few
          images
Expected: depends on the set. Results are better from pretrained weights, with the published learning rates:
          --cfg-options model.backbone.weights=weights/resnet18.pth optimizer.lr=0.01 paramwise.custom.head.lr_mult=10
"""

train_set = "data/mine_train"
val_set = "data/mine_val"
pipeline = {"type": "multilabel", "image_size": 224, "crop": "random-resized", "scale": (0.7, 1.0)}
batch_size = 16
epochs = 30
seed = 0
model = {"type": "multilabel", "backbone": "resnet18", "head": {"type": "csra", "num_heads": 1, "lam": 0.1}}
loss = {"type": "BinaryCrossEntropy"}
optimizer = {"type": "SGD", "lr": 0.02, "momentum": 0.9, "weight_decay": 1e-4}
paramwise = {"custom": {"head": {"lr_mult": 1}}}
schedule = {"type": "cosine", "warmup_epochs": 2}
log_interval = 10
checkpoint = {"interval_epochs": 5, "keep": 2, "best": "mAP"}
