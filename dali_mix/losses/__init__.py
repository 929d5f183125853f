"""Loss functions: plain modules, (logits, targets) → scalar float32.

If a loss is a mean that ignores entries, its `counted(targets)` returns the number of rows it averages over, as a
scalar tensor. The means of parts of a batch, weighted by these numbers, give the mean of the batch. `accepts` lists the
kinds of targets a loss accepts (`dali_mix.mixers.ops.targets.TargetKind`).
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
