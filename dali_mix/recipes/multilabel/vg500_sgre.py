"""VG500, {title} pixels.

Command:  scripts/train_dist.sh multilabel/vg500_sgre:{variant} {gpus} --work-dir work_dirs/vg500_sgre_{variant}
Hardware: {hardware}
Source:   SGRE (IEEE TCSVT 2024) on VG500; label embeddings by `dali-mix embed-labels --from bert`; our choice:
          λ as on COCO{source}
Expected: no published figure found
"""

from mmengine.config import read_base

with read_base():
    from ._sgre import *

train_set = "data/vg500_train"
val_set = "data/vg500_test"
model = {"type": "multilabel", "head": {"type": "sgre", "embeddings": "data/vg500_bert.npy"}}
loss = {"type": "SGRELoss", "lam": 0.4}
