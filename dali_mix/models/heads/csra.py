"""Class-specific residual attention (CSRA, arXiv 2108.02456)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dali_mix.models.heads.tokens import as_maps, as_tokens
from dali_mix.options import number

MAX = 99  # the temperature that denotes the maximum, as in the released code
TEMPERATURES = {1: (1,), 2: (1, MAX), 4: (1, 2, 4, MAX), 6: (1, 2, 3, 4, 5, MAX), 8: (1, 2, 3, 4, 5, 6, 7, MAX)}


class CSRAHead(nn.Module):
    """Class-specific residual attention: average class scores plus lam times attention-weighted class scores.

    The logits are the sum over heads of mean(s) + lam · Σ softmax(T · s) · s, where s are the class scores at all
    positions. A score is the dot product of a feature with the unit-length weights of a class, without bias. Each head
    has its own weights and temperature T; the last of several heads takes the maximum (T → ∞).

    Args:
        in_channels: C of the features.
        num_classes: K.
        num_heads: 1, 2, 4, 6 or 8.
        lam: weight of the attention term. Published values are 0.1 with 1 head on VOC, 0.4 with 6 heads (ResNet-101)
            and 1 with 8 heads (ViT-L/16) on COCO, and 0.3 with 1 head on WIDER.

    Raises:
        ValueError: an argument out of range. The methods raise it for features of a wrong shape.
    """

    def __init__(self, in_channels: int, num_classes: int, num_heads: int = 1, lam: float = 0.1) -> None:
        super().__init__()
        if num_heads not in TEMPERATURES:
            raise ValueError(f"num_heads={num_heads}: must be one of {', '.join(map(str, TEMPERATURES))}")
        self.in_channels = in_channels
        self.lam = number("lam", lam, -math.inf)
        self.temperatures = TEMPERATURES[num_heads]
        self.weight = nn.Parameter(torch.empty(num_heads, num_classes, in_channels))
        nn.init.uniform_(self.weight, -(in_channels**-0.5), in_channels**-0.5)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B,K) of features (B,C,H,W) or (B,N,C)."""
        scores = self._scores(features)
        base = scores.mean(1).sum(1)
        return base + self.lam * sum(
            head.amax(1) if temperature == MAX else ((temperature * head).softmax(1) * head).sum(1)
            for temperature, head in zip(self.temperatures, scores.unbind(2), strict=True)
        )

    def class_maps(self, features: Tensor) -> Tensor:
        """Return the contribution of each position to the logits, (B,K,H,W), or (B,K,N) for tokens.

        The logits are the mean of these contributions over positions.
        """
        scores = self._scores(features)
        total = scores.sum(2)
        for temperature, head in zip(self.temperatures, scores.unbind(2), strict=True):
            if temperature == MAX:
                shares = torch.zeros_like(head).scatter_(1, head.argmax(1, keepdim=True), 1.0)
            else:
                shares = (temperature * head).softmax(1)
            total = total + self.lam * head.shape[1] * shares * head
        return as_maps(total.transpose(1, 2), features)

    def _scores(self, features: Tensor) -> Tensor:
        """Return the class scores at each position of `features`, (B, N, heads, K): s in the formula of the class."""
        weight = F.normalize(self.weight, dim=2)
        return F.linear(as_tokens(features, self.in_channels), weight.flatten(0, 1)).unflatten(2, weight.shape[:2])

    def extra_repr(self) -> str:
        heads, classes, channels = self.weight.shape
        return f"in_channels={channels}, num_classes={classes}, num_heads={heads}, lam={self.lam}"
