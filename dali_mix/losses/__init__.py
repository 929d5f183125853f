"""Objectives: plain modules, (logits, targets) → scalar float32.

For a mean that ignores entries, `counted(targets)` returns the number of rows it averages over, a scalar tensor: the
means of parts of a batch, weighted by it, give the mean of the batch. `accepts` lists the kinds of targets a loss
accepts (`dali_mix.mixers.ops.targets.TargetKind`).
"""

from dali_mix.losses.asymmetric import AsymmetricLoss, SGRELoss
from dali_mix.losses.binary import BinaryCrossEntropy, MultiLabelSoftMargin
from dali_mix.losses.masked_supervision import MaskedSupervisionLoss
from dali_mix.losses.soft_cross_entropy import SoftCrossEntropy
from dali_mix.losses.splicemix_consistency import SpliceMixConsistencyLoss

__all__ = [
    "AsymmetricLoss",
    "BinaryCrossEntropy",
    "MaskedSupervisionLoss",
    "MultiLabelSoftMargin",
    "SGRELoss",
    "SoftCrossEntropy",
    "SpliceMixConsistencyLoss",
]
