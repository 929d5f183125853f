"""COCO 2014, TResNet-L, CSRA head, masked supervision at 448 pixels.

Command:  dali-mix train multilabel/coco_msl_tresnet_l --work-dir work_dirs/coco_msl_tresnet_l
Hardware: 1 GPU; each image goes through twice
Source:   MSL (arXiv 2310.18517); batch 10 is of the released VOC2007 command; 30 epochs, heads are our choice, after
          CSRA's
Expected: the paper's best mAP on COCO 2014 is 86.4 %; we know no figure for this backbone alone
"""

from mmengine.config import read_base

with read_base():
    from ._msl import *

train_set = "data/coco2014_train"
val_set = "data/coco2014_val"
model = {
    "type": "multilabel",
    "backbone": {"type": "tresnet_l", "weights": "weights/tresnet_l.safetensors"},
    "head": {"type": "csra", "num_heads": 6, "lam": 0.4},
}
