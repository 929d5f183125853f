"""COCO 2014, ViT-L/16, SGRE at 448 pixels.

Command:  scripts/train_dist.sh multilabel/coco_sgre_vit_l16 8 --work-dir work_dirs/coco_sgre_vit_l16
Hardware: 8 GPUs × 16 images
Source:   SGRE (IEEE TCSVT 2024) on COCO 2014; label embeddings by `dali-mix embed-labels --from bert`. With weights of
          ImageNet-21k: --cfg-options model.backbone.weights=FILE
Expected: the paper's mAP; we have no published figure at hand
"""

from mmengine.config import read_base

with read_base():
    from ._sgre import *

train_set = "data/coco2014_train"
val_set = "data/coco2014_val"
model = {
    "type": "multilabel",
    "backbone": {"type": "vit_large_patch16_224", "weights": "weights/vit_large_patch16_224.safetensors"},
    "head": {"type": "sgre", "embeddings": "data/coco_bert.npy"},
}
loss = {"type": "SGRELoss", "lam": 0.4}
