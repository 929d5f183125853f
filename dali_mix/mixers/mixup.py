"""MixUp: the weighted mean of two images (arXiv 1710.09412)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dali_mix.mixers.base import BetaMixer, check_batch
from dali_mix.mixers.description import MixedImage, pasted
from dali_mix.mixers.ops import draws
from dali_mix.mixers.ops.blend import blend
from dali_mix.mixers.ops.targets import mix_area


@dataclass(frozen=True)
class MixUpParams:
    """Params of MixUp.

    Attributes:
        permutation: (B,) int64, the partner of each image.
        lam: (B,) float32 in [0,1], the weight of the image itself.
    """

    permutation: Tensor
    lam: Tensor


class MixUp(BetaMixer[MixUpParams]):
    """Mix images and targets as lam · own + (1 - lam) · partner, with lam ~ Beta(alpha, alpha).

    The mean is computed in float32 (float64 for float64 images); uint8 images are rounded to the nearest integer.

    Args:
        num_classes: K; None if targets are always (B,K).
        alpha: parameter of the Beta distribution; the paper uses 0.2 on ImageNet and 1 on CIFAR.
        per_batch: one lam for the batch, as published. By default every image has its own.
        prob: probability that a batch is mixed; see `Mixer`.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self, num_classes: int | None, alpha: float = 0.2, per_batch: bool = False, *, prob: float = 1.0
    ) -> None:
        super().__init__(num_classes, alpha, per_batch, prob=prob)

    def draw(self, batch_size: int, height: int, width: int, generator: torch.Generator | None) -> MixUpParams:
        lam = draws.beta(1 if self.per_batch else batch_size, self.alpha, generator)
        lam = draws.per_sample(lam, batch_size).float()
        return MixUpParams(permutation=draws.permutation(batch_size, generator), lam=lam)

    def apply(
        self, images: Tensor, targets: Tensor, params: MixUpParams, *, inplace: bool = False
    ) -> tuple[Tensor, Tensor]:
        check_batch(images, targets, len(params.lam))
        mixed_targets = mix_area(targets, params.permutation, params.lam, self.num_classes)
        return blend(images, params.permutation, params.lam, inplace=inplace), mixed_targets

    def describe(self, images: Tensor, params: MixUpParams) -> list[MixedImage]:
        return pasted(params.permutation, params.lam)
