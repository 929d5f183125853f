"""Loss functions: plain modules that take logits, targets and possibly other tensors, and return a scalar float32.

The attribute `accepts` of a loss is the set of target kinds it accepts (`dali_mix.mixers.ops.targets.TargetKind`).

Multi-label losses exclude ignored entries. If a multi-label loss is a mean, its method `counted(targets)` returns the
number of rows averaged over, as a scalar tensor. To get the loss of a batch from the losses of its parts, average them
with the numbers of the parts as weights. In `SpliceMixConsistencyLoss`, this is only approximate for the consistency
term.
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
