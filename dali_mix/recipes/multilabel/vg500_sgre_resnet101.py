"""VG500, ResNet-101, SGRE at 448 pixels.

Command:  scripts/train_dist.sh multilabel/vg500_sgre_resnet101 4 --work-dir work_dirs/vg500_sgre_resnet101
Hardware: 4 GPUs × 32 images
Source:   SGRE (IEEE TCSVT 2024) on VG500; label embeddings by `dali-mix embed-labels --from bert`; our choice: λ as on
          COCO
Expected: the paper's mAP; we have no published figure at hand
"""

from mmengine.config import read_base

with read_base():
    from ._sgre import *

train_set = "data/vg500_train"
val_set = "data/vg500_test"
model = {
    "type": "multilabel",
    "backbone": {"type": "resnet101", "weights": "weights/resnet101.pth"},
    "head": {"type": "sgre", "embeddings": "data/vg500_bert.npy"},
}
loss = {"type": "SGRELoss", "lam": 0.4}
