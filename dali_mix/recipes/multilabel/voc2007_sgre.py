"""VOC2007, {title} pixels.

Command:  scripts/train_dist.sh multilabel/voc2007_sgre:{variant} {gpus} --work-dir work_dirs/voc2007_sgre_{variant}
Hardware: {hardware}
Source:   SGRE (IEEE TCSVT 2024) on VOC2007; label embeddings by `dali-mix embed-labels --from bert`{source}
Expected: no published figure found
"""

from mmengine.config import read_base

with read_base():
    from ._sgre import *

train_set = "data/voc2007_trainval"
val_set = "data/voc2007_test"
model = {"type": "multilabel", "head": {"type": "sgre", "embeddings": "data/voc2007_bert.npy"}}
loss = {"type": "SGRELoss", "lam": 0.1}
ema = 0.9983
