"""Binary cross-entropy for multi-label targets, some of which may be ignored."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dali_mix.losses.multilabel import MultiLabelLoss, known_entries


class BinaryCrossEntropy(MultiLabelLoss):
    """Binary cross-entropy, averaged over the known entries.

    The loss is the mean of -y·log σ(z) - (1-y)·log(1-σ(z)) over entries with logit z and target y. It is computed in
    float32 even under autocast. A batch without known entries has loss 0 and gradients of 0.

    Raises:
        ValueError: from `forward`, wrong shapes or dtypes.
    """

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, a scalar float32; logits are (B,K) of any float dtype, targets as in `MultiLabelLoss`."""
        with torch.autocast(logits.device.type, enabled=False):
            terms, known = _terms(logits, targets)
            return terms.sum() / known.sum().clamp_min(1)


class MultiLabelSoftMargin(MultiLabelLoss):
    """Binary cross-entropy averaged over each sample's known classes, then over the samples that have any.

    Without ignored entries, it equals torch's `multilabel_soft_margin_loss` and `BinaryCrossEntropy`. With ignored
    entries, all samples with a known class have equal weight here, while all known entries have equal weight in
    `BinaryCrossEntropy`.

    Raises:
        ValueError: from `forward`, wrong shapes or dtypes.
    """

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, a scalar float32; logits are (B,K) of any float dtype, targets as in `MultiLabelLoss`."""
        with torch.autocast(logits.device.type, enabled=False):
            terms, known = _terms(logits, targets)
            count = known.sum(1)
            return (terms.sum(1) / count.clamp_min(1)).sum() / (count > 0).sum().clamp_min(1)

    def counted(self, targets: Tensor) -> Tensor:
        """Return the number of rows with a known class, a scalar tensor: the rows that the loss averages over."""
        return (targets >= 0).any(1).sum()


def _terms(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits, targets, known = known_entries(logits, targets)
    terms = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return terms * known, known
