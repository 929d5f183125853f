"""Masked supervision (MaskSup, MSL, arXiv 2310.18517): train on an image and a masked version of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dali_mix.losses.binary import BinaryCrossEntropy
from dali_mix.losses.multilabel import MultiLabelLoss, known_entries
from dali_mix.options import number


class MaskedSupervisionLoss(MultiLabelLoss):
    """Loss of masked supervision (arXiv 2310.18517).

    The loss is whole · BCE(z, y) + masked · BCE(z', y) + agreement · MSE(σ(z), σ(z')), where z are the logits of the
    original images, z' the logits of the masked images, and y the targets.

    The terms are means over the known entries, in float32 even under autocast. No term is detached: z and z' receive
    gradients from every term they appear in. A batch without known entries has loss 0 and gradients of 0.

    Args:
        whole, masked, agreement: the weights of the terms, each ≥ 0.

    Raises:
        ValueError: a negative weight; from `forward`, wrong shapes or dtypes.
    """

    def __init__(self, whole: float = 0.3, masked: float = 0.2, agreement: float = 0.5) -> None:
        super().__init__()
        self.whole = number("whole", whole, 0)
        self.masked = number("masked", masked, 0)
        self.agreement = number("agreement", agreement, 0)
        self.bce = BinaryCrossEntropy()

    def forward(self, logits: Tensor, masked_logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, a scalar float32.

        Args:
            logits, masked_logits: (B,K) of any float dtype, of the original and of the masked images.
            targets: (B,K), 0 … 1, -1 = ignored.
        """
        with torch.autocast(logits.device.type, enabled=False):
            supervised = self.whole * self.bce(logits, targets) + self.masked * self.bce(masked_logits, targets)
            # Ignored entries are 0 in both `one` and `other`, so they contribute nothing.
            one, _, known = known_entries(logits, targets)
            other, _, _ = known_entries(masked_logits, targets)
            difference = F.mse_loss(one.sigmoid(), other.sigmoid(), reduction="sum")
            return supervised + self.agreement * difference / known.sum().clamp_min(1)
