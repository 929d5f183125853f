"""A small Faster R-CNN that finds handwritten digits in scenes: from packing to evaluation in minutes on two CPU cores.

Command:  dali-mix pack digit-scenes --split train --task detection --out data/scene_boxes_train
          dali-mix pack digit-scenes --split val --task detection --out data/scene_boxes_val
          dali-mix train detection/digit_scenes_frcnn --work-dir work_dirs/digit_scenes_frcnn
Hardware: 2 CPU cores, no GPU
Source:   Faster R-CNN with a feature pyramid (arXiv 1506.01497, 1612.03144) on scenes of scanned digits; no published
          figure
Expected: AP50 ≥ 90% on scenes of held-out scans (94.3% after the first epoch)
"""

train_set = "data/scene_boxes_train"
val_set = "data/scene_boxes_val"
# The scenes keep their size, 96 × 128. No flips: a mirrored digit is not a digit.
pipeline = {"type": "detection", "shorter": 96, "longest": 128, "flip": 0.0}
batch_size = 8
epochs = 2
seed = 0
model = {
    "type": "detector",
    "backbone": {"type": "timm/resnet10t"},
    "freeze": (),
    "anchors": (16, 24, 32, 48, 64),
    "channels": 64,
    "hidden": 256,
    "rois": 48,
    "proposals": (256, 128),
}
objective = {"type": "Detection"}
optimizer = {"type": "AdamW", "lr": 1e-3, "weight_decay": 1e-2}
schedule = {"type": "onecycle", "pct_start": 0.2}
log_interval = 25
checkpoint = {"interval_epochs": 2, "keep": 2}
