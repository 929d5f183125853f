"""VOC2007, ViT-L/16, CSRA head, masked supervision at 448 pixels.

Command:  dali-mix train multilabel/voc2007_msl_vit_l16 --work-dir work_dirs/voc2007_msl_vit_l16
Hardware: 1 GPU; each image goes through twice
Source:   MSL (arXiv 2310.18517); batch 10 is of the released VOC2007 command; 30 epochs, heads and image size are our
          choice, after CSRA's
Expected: the paper's best mAP on VOC2007 is 96.1 %; we know no figure for this backbone alone
"""

from mmengine.config import read_base

with read_base():
    from ._msl import *

train_set = "data/voc2007_trainval"
val_set = "data/voc2007_test"
model = {
    "type": "multilabel",
    "backbone": {"type": "vit_large_patch16_224", "weights": "weights/vit_large_patch16_224.safetensors"},
    "head": {"type": "csra", "num_heads": 1, "lam": 0.1},
}
schedule = {"type": "step", "milestones": [4, 8, 12, 16, 20, 24, 28], "gamma": 0.1, "warmup_epochs": 2}
