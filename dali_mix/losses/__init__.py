"""Loss functions: plain modules that take logits, targets and possibly more, and return a scalar float32.

`accepts` lists the kinds of targets a loss accepts (`dali_mix.mixers.ops.targets.TargetKind`).

A multi-label loss excludes ignored entries. If it is a mean, its `counted(targets)` returns the number of rows averaged
over, as a scalar tensor. The means of parts of a batch, weighted by these numbers, give the mean of the batch (in
`SpliceMixConsistencyLoss` the consistency term only approximately).
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
