"""Cross-entropy for class indices and for the soft targets of mixers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SoftCrossEntropy(nn.Module):
    """Cross-entropy with class indices or class probabilities as targets, averaged over the batch.

    The loss is the mean of -Σ target · log softmax(logits), computed in float32 even under autocast.

    With targets λ·y + (1-λ)·y' and logits z, it equals λ·CE(z, y) + (1-λ)·CE(z, y'), the loss of CutMix, ResizeMix and
    MixUp. Samples with class index -1 are ignored, that is, excluded from the mean. A batch with only ignored samples
    has loss 0.

    Args:
        label_smoothing: share of each target spread evenly over all classes, in [0, 1).

    Raises:
        ValueError: label_smoothing out of range; from `forward`, wrong shapes or dtypes.
    """

    accepts = frozenset({"class", "soft"})

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing}: must be in [0, 1)")
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, a scalar float32.

        Args:
            logits: (B,K) of any float dtype.
            targets: (B,) int64 class indices, -1 = ignored; or (B,K) float whose rows sum to 1.
        """
        if logits.ndim != 2 or targets.shape not in (logits.shape, logits.shape[:1]):
            raise ValueError(
                f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)}: need (B,K) and (B,) or (B,K)"
            )
        if targets.is_floating_point() != (targets.ndim == 2):
            raise ValueError(f"targets {tuple(targets.shape)} {targets.dtype}: need (B,) int64 or (B,K) float")
        with torch.autocast(logits.device.type, enabled=False):
            count = (targets != -1).sum().clamp_min(1) if targets.ndim == 1 else max(len(targets), 1)
            truth = targets if targets.ndim == 1 else targets.float()
            total = F.cross_entropy(
                logits.float(), truth, reduction="sum", ignore_index=-1, label_smoothing=self.label_smoothing
            )
            return total / count

    def extra_repr(self) -> str:
        return f"label_smoothing={self.label_smoothing}"
