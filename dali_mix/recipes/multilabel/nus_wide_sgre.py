"""NUS-WIDE, {title} pixels.

Command:  scripts/train_dist.sh multilabel/nus_wide_sgre:{variant} {gpus} --work-dir work_dirs/nus_wide_sgre_{variant}
Hardware: {hardware}
Source:   SGRE (IEEE TCSVT 2024) on NUS-WIDE; label embeddings by `dali-mix embed-labels --from bert`{source}
Expected: no published figure found
"""

from mmengine.config import read_base

with read_base():
    from ._sgre import *

train_set = "data/nus_wide_train"
val_set = "data/nus_wide_test"
model = {"type": "multilabel", "head": {"type": "sgre", "embeddings": "data/nus_wide_bert.npy"}}
loss = {"type": "SGRELoss", "lam": 0.05}
