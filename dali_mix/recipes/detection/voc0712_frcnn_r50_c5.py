"""{title}.

Command:  dali-mix pack voc --root VOCdevkit --task detection --split trainval --years 2007,2012 --out data/voc0712
          dali-mix pack voc --root VOCdevkit --task detection --split test --years 2007 --out data/voc07_test
          dali-mix train detection/voc0712_frcnn_r50_c5:{variant} --work-dir work_dirs/voc_frcnn_c5
Hardware: 1 GPU of 16 GB
Source:   SaliencyMix (arXiv 2006.01791), table 3, with its learning rate and batch size: Faster R-CNN on the last
          feature map of a ResNet-50 whose stem, first stage and BatchNorm layers are frozen. Not run here
Expected: AP50 by the mixer used in pretraining: none 76.71, Cutout 77.17, MixUp 77.98, CutMix 78.31, SaliencyMix 78.48
          (published). To load a backbone:
          --cfg-options model.backbone.weights=CHECKPOINT_OR_WEIGHTS
"""

train_set = "data/voc0712"
val_set = "data/voc07_test"
pipeline = {"type": "detection", "shorter": 600, "longest": 1000}
batch_size = 8
seed = 0
model = {"type": "detector", "backbone": {"type": "torchvision/resnet50"}, "neck": "c5"}
objective = {"type": "Detection"}
optimizer = {"type": "SGD", "lr": 4e-3, "momentum": 0.9, "weight_decay": 5e-4}
log_interval = 100
checkpoint = {"interval_epochs": 1, "keep": 2}
VARIANTS = {
    "paper": {
        "about": {"title": "VOC 2007+2012, ResNet-50 C5, 41,000 steps, rate × 0.1 at 33,000"},
        "epochs": 20,
        "max_steps": 41_000,
        "schedule": {"type": "step", "milestones": (16,), "gamma": 0.1},
    },
    "replication": {
        "about": {"title": "VOC 2007+2012, ResNet-50 C5, 14 epochs, rate × 0.1 after 10"},
        "epochs": 14,
        "schedule": {"type": "step", "milestones": (10,), "gamma": 0.1},
    },
}
