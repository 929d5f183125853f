"""COCO 2014, {title} pixels.

Command:  scripts/train_dist.sh multilabel/coco_sgre:{variant} {gpus} --work-dir work_dirs/coco_sgre_{variant}
Hardware: {hardware}
Source:   SGRE (IEEE TCSVT 2024) on COCO 2014; label embeddings by `dali-mix embed-labels --from bert`{source}
Expected: no published figure found
"""

from mmengine.config import read_base

with read_base():
    from ._sgre import *

train_set = "data/coco2014_train"
val_set = "data/coco2014_val"
model = {"type": "multilabel", "head": {"type": "sgre", "embeddings": "data/coco_bert.npy"}}
loss = {"type": "SGRELoss", "lam": 0.4}
