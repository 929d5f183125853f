"""The asymmetric loss for multi-label targets (ASL, arXiv 2009.14119)."""

from __future__ import annotations

import torch
from torch import Tensor

from dali_mix.losses.multilabel import MultiLabelLoss, known_entries
from dali_mix.options import choice, number


class AsymmetricLoss(MultiLabelLoss):
    """Asymmetric loss for multi-label classification (ASL, arXiv 2009.14119).

    The loss of an entry with logit z and target y is -[y·log p·(1-p)^γ⁺ + (1-y)·log q·(1-q)^γ⁻], with p = σ(z) and
    q = min(1 - p + clip, 1). If y is a fraction, both focusing weights are (1 - y·p - (1-y)·q)^(y·γ⁺ + (1-y)·γ⁻). For
    y = 0 and y = 1, this is the formula above.

    No gradient flows through the focusing weights, as published. The loss is computed in float32 even under autocast. A
    batch without known entries has loss 0 and gradients of 0.

    SGRE uses gamma_neg=2, gamma_pos=0, clip=0, eps=1e-5, reduction="mean" and scale=1000.

    Args:
        gamma_neg, gamma_pos: γ⁻ and γ⁺ ≥ 0.
        clip: margin in [0, 1); negatives with p at or below it have zero loss.
        eps: lower bound in (0, 1) for arguments of logarithms; below it gradients are 0.
        reduction: "sum", as published, or "mean" over the known entries of the batch.
        scale: factor of the result, > 0.

    Raises:
        ValueError: an argument out of range; from `forward`, wrong shapes or dtypes.
    """

    def __init__(
        self,
        gamma_neg: float = 4.0,
        gamma_pos: float = 1.0,
        clip: float = 0.05,
        eps: float = 1e-8,
        reduction: str = "sum",
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 <= clip < 1:
            raise ValueError(f"clip={clip}: must be in [0, 1)")
        if not 0 < eps < 1:
            raise ValueError(f"eps={eps}: must be in (0, 1)")
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale={scale}: must be positive")
        self.gamma_neg = number("gamma_neg", gamma_neg, 0)
        self.gamma_pos = number("gamma_pos", gamma_pos, 0)
        self.clip = clip
        self.eps = eps
        self.reduction = choice("reduction", reduction, ("sum", "mean"))
        self.scale = scale

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, a scalar float32; logits are (B,K) of any float dtype, targets as in `MultiLabelLoss`."""
        with torch.autocast(logits.device.type, enabled=False):
            logits, targets, known = known_entries(logits, targets)
            positive = logits.sigmoid()
            negative = (1 - positive + self.clip).clamp(max=1)
            terms = targets * positive.clamp(min=self.eps).log() + (1 - targets) * negative.clamp(min=self.eps).log()
            with torch.no_grad():
                true = positive * targets + negative * (1 - targets)
                gamma = self.gamma_pos * targets + self.gamma_neg * (1 - targets)
                # Rounding may raise a soft target, and thus `true`, above 1. A fractional power of a negative is NaN.
                weights = (1 - true).clamp(min=0).pow(gamma)
            total = -(terms * weights * known).sum() * self.scale
            return total if self.reduction == "sum" else total / known.sum().clamp_min(1)


class SGRELoss(MultiLabelLoss):
    """Loss of SGRE: ASL(logits) + lam · ASL(auxiliary logits), each a mean over the known entries times 1000.

    Args:
        lam: weight of the auxiliary logits, ≥ 0; 0.1 for VOC, 0.4 for COCO, 0.05 for NUS-WIDE.
        gamma_neg, gamma_pos, clip, eps: as in `AsymmetricLoss`, for both terms.

    Raises:
        ValueError: an argument out of range; from `forward`, wrong shapes or dtypes.
    """

    def __init__(
        self, lam: float = 0.4, gamma_neg: float = 2.0, gamma_pos: float = 0.0, clip: float = 0.0, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.lam = number("lam", lam, 0)
        self.asl = AsymmetricLoss(gamma_neg, gamma_pos, clip, eps, reduction="mean", scale=1000.0)

    def forward(self, outputs: Tensor | tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        """Return the loss, a scalar float32.

        Args:
            outputs: (logits, auxiliary logits), each (B,K), as SGREHead returns in training; or only the logits, as it
                returns in evaluation. The loss then has only the first term.
            targets: (B,K), 0 … 1, -1 = ignored.
        """
        if isinstance(outputs, Tensor):
            return self.asl(outputs, targets)
        logits, auxiliary = outputs
        return self.asl(logits, targets) + self.lam * self.asl(auxiliary, targets)
