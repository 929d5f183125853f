"""NUS-WIDE, Swin-L/4-384, SGRE at 384 pixels.

Command:  scripts/train_dist.sh multilabel/nus_wide_sgre_swin_l_384 8 --work-dir work_dirs/nus_wide_sgre_swin_l_384
Hardware: 8 GPUs × 16 images
Source:   SGRE (IEEE TCSVT 2024) on NUS-WIDE; label embeddings by `dali-mix embed-labels --from bert`; our choice: 384
          pixels, as its windows were trained, not 448
Expected: the paper's mAP; we have no published figure at hand
"""

from mmengine.config import read_base

with read_base():
    from ._sgre import *

train_set = "data/nus_wide_train"
val_set = "data/nus_wide_test"
pipeline = {**pipeline, "image_size": 384}
model = {
    "type": "multilabel",
    "backbone": {"type": "swin_large_patch4_window12_384", "weights": "weights/swin_large_384.safetensors"},
    "head": {"type": "sgre", "embeddings": "data/nus_wide_bert.npy"},
}
loss = {"type": "SGRELoss", "lam": 0.05}
