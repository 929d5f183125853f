"""Digit scenes, CSRA head, masked supervision.

Command:  dali-mix pack digit-scenes --split train --out data/scenes_train
          dali-mix pack digit-scenes --split val --out data/scenes_val
          dali-mix train multilabel/digit_scenes_msl --work-dir work_dirs/scenes
Hardware: 2 CPU cores, no GPU
Source:   MSL (arXiv 2310.18517) on scenes of scikit-learn's scans; no published figure
Expected: a better mAP after the first epoch than before it; the tests check that, on fewer scenes
"""

from mmengine.config import read_base

with read_base():
    from ._digit_scenes import *

objective = {"type": "MaskedSupervision"}
loss = {"type": "BinaryCrossEntropy"}
