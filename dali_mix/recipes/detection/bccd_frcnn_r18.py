"""Blood cells in a few hundred photos: a small Faster R-CNN, fine-tuned on two CPU cores.

Command:  dali-mix pack voc --root BCCD --task detection --classes auto --split trainval --out data/bccd_train
          dali-mix pack voc --root BCCD --task detection --classes auto --split test --out data/bccd_val
          dali-mix train detection/bccd_frcnn_r18 --work-dir work_dirs/bccd
Hardware: 2 CPU cores
Source:   Faster R-CNN with a feature pyramid (arXiv 1506.01497, 1612.03144), with a smaller backbone and head. The set
          is the folder BCCD of github.com/Shenggan/BCCD_Dataset (MIT). No published figure for this model
Expected: AP50 ≥ 80% (86.1% after 4 epochs, in 7 minutes, with 120 photos of trainval and 40 of test). The backbone is a
          torchvision/resnet18 trained on CIFAR-10 with ResizeMix: 700 steps of 128 images, 64 pixels per side, top-1
          56.4%. The commands are in docs/detection.md. To load the backbone:
          --cfg-options model.backbone.weights=work_dirs/pretrained/checkpoints/latest
"""

train_set = "data/bccd_train"
val_set = "data/bccd_val"
pipeline = {"type": "detection", "shorter": 320, "longest": 448}
train_pipeline = {"shorter": (288, 320, 352), "photometric": 0.5}
batch_size = 4
epochs = 6
seed = 0
model = {
    "type": "detector",
    "backbone": {"type": "torchvision/resnet18"},
    "freeze": (),
    "anchors": (24, 48, 80, 128, 200),
    "channels": 64,
    "hidden": 256,
    "rois": 64,
    "proposals": (500, 300),
}
objective = {"type": "Detection"}
optimizer = {"type": "AdamW", "lr": 5e-4, "weight_decay": 1e-2}
schedule = {"type": "cosine", "warmup_epochs": 1}
clip_grad_norm = 10.0
log_interval = 10
evaluate_epochs = 2
checkpoint = {"interval_epochs": 2, "keep": 2}
