"""WIDER-Attribute, ResNet-101 (CutMix weights), CSRA head, masked supervision at 224 pixels.

Command:  dali-mix train multilabel/wider_msl_resnet101_cutmix --work-dir work_dirs/wider_msl_resnet101_cutmix
Hardware: 1 GPU; each image goes through twice
Source:   MSL (arXiv 2310.18517); batch 10 is of the released VOC2007 command; 30 epochs, heads are our choice, after
          CSRA's; so is the normalization
Expected: the paper's best mAP on WIDER-Attribute is 90.6 %; we know no figure for this backbone alone
"""

from mmengine.config import read_base

with read_base():
    from ._msl import *

train_set = "data/wider_trainval"
val_set = "data/wider_test"
# Persons, already cropped to their boxes.
pipeline = {"type": "multilabel", "image_size": 224, "crop": "none", "normalization": "half"}
metrics = {"protocol": "wider"}
model = {
    "type": "multilabel",
    "backbone": {"type": "resnet101", "weights": "weights/resnet101_cutmix.pth"},
    "head": {"type": "csra", "num_heads": 1, "lam": 0.3},
}
