"""NUS-WIDE, ResNet-101, SGRE at 448 pixels.

Command:  scripts/train_dist.sh multilabel/nus_wide_sgre_resnet101 4 --work-dir work_dirs/nus_wide_sgre_resnet101
Hardware: 4 GPUs × 32 images
Source:   SGRE (IEEE TCSVT 2024) on NUS-WIDE; label embeddings by `dali-mix embed-labels --from bert`
Expected: the paper's mAP; we have no published figure at hand
"""

from mmengine.config import read_base

with read_base():
    from ._sgre import *

train_set = "data/nus_wide_train"
val_set = "data/nus_wide_test"
model = {
    "type": "multilabel",
    "backbone": {"type": "resnet101", "weights": "weights/resnet101.pth"},
    "head": {"type": "sgre", "embeddings": "data/nus_wide_bert.npy"},
}
loss = {"type": "SGRELoss", "lam": 0.05}
