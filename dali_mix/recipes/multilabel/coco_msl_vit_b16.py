"""COCO 2014, ViT-B/16, CSRA head, masked supervision at 448 pixels.

Command:  dali-mix train multilabel/coco_msl_vit_b16 --work-dir work_dirs/coco_msl_vit_b16
Hardware: 1 GPU; each image goes through twice
Source:   MSL (arXiv 2310.18517); batch 10 is of the released VOC2007 command; 30 epochs, heads and image size are our
          choice, after CSRA's
Expected: the paper's best mAP on COCO 2014 is 86.4 %; we know no figure for this backbone alone
"""

from mmengine.config import read_base

with read_base():
    from ._msl import *

train_set = "data/coco2014_train"
val_set = "data/coco2014_val"
model = {
    "type": "multilabel",
    "backbone": {"type": "vit_base_patch16_224", "weights": "weights/vit_base_patch16_224.safetensors"},
    "head": {"type": "csra", "num_heads": 8, "lam": 1.0},
}
