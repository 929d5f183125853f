"""COCO 2014, TResNet-L, SGRE at 448 pixels.

Command:  scripts/train_dist.sh multilabel/coco_sgre_tresnet_l 4 --work-dir work_dirs/coco_sgre_tresnet_l
Hardware: 4 GPUs × 32 images
Source:   SGRE (IEEE TCSVT 2024) on COCO 2014; label embeddings by `dali-mix embed-labels --from bert`; our choice:
          pixels in 0..1, as its weights were trained
Expected: the paper's mAP; we have no published figure at hand
"""

from mmengine.config import read_base

with read_base():
    from ._sgre import *

train_set = "data/coco2014_train"
val_set = "data/coco2014_val"
pipeline = {**pipeline, "normalization": "none"}
model = {
    "type": "multilabel",
    "backbone": {"type": "tresnet_l", "weights": "weights/tresnet_l.safetensors"},
    "head": {"type": "sgre", "embeddings": "data/coco_bert.npy"},
}
loss = {"type": "SGRELoss", "lam": 0.4}
