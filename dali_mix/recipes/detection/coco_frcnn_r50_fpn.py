"""COCO 2017, ResNet-50 with a feature pyramid: torchvision's protocol. Needs `pip install 'dali_mix[detection]'`.

Command:  dali-mix pack coco --root coco --split train2017 --task detection --out data/coco_train_boxes
          dali-mix pack coco --root coco --split val2017 --task detection --out data/coco_val_boxes
          scripts/train_dist.sh detection/coco_frcnn_r50_fpn 8 --work-dir work_dirs/coco_frcnn
Hardware: 8 GPUs of 16 GB
Source:   torchvision's references/detection: 800 × 1333 pixels, 26 epochs, learning rate 0.02 for 16 images per step,
          × 0.1 after epochs 16 and 22, batches of one orientation, 1,000 steps of warm-up. torchvision also drops
          images without boxes. Not run here
Expected: AP 37.0 (published there, from ImageNet weights). To load a backbone:
          --cfg-options model.backbone.weights=CHECKPOINT_OR_WEIGHTS
"""

train_set = "data/coco_train_boxes"
val_set = "data/coco_val_boxes"
pipeline = {"type": "detection", "shorter": 800, "longest": 1333}
batch_size = 16
epochs = 26
seed = 0
model = {"type": "detector", "backbone": {"type": "torchvision/resnet50"}}
objective = {"type": "Detection"}
metrics = {"protocol": "coco"}
optimizer = {"type": "SGD", "lr": 0.02, "momentum": 0.9, "weight_decay": 1e-4}
schedule = {"type": "step", "milestones": (16, 22), "gamma": 0.1, "warmup_epochs": 0.136, "warmup_factor": 0.001}
log_interval = 100
checkpoint = {"interval_epochs": 1, "keep": 2, "best": "AP"}
