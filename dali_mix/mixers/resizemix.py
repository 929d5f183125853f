"""ResizeMix: paste a resized image into another (arXiv 2012.11101)."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from dali_mix.mixers.base import Mixer, PasteParams, check_batch, check_scale, class_count
from dali_mix.mixers.ops import boxes as box_ops
from dali_mix.mixers.ops import draws
from dali_mix.mixers.ops.paste import Interpolation, paste_resized
from dali_mix.mixers.ops.targets import mix_area
from dali_mix.options import choice, flag


class ResizeMix(Mixer[PasteParams]):
    """Shrink a partner image by a random factor τ, paste all of it, and mix targets by the area pasted.

    With τ ~ U(scale), the partner is resized to ⌊τH⌋ × ⌊τW⌋, each side at least one pixel. The box is centred on a
    uniformly drawn pixel, then shifted to lie fully inside, so no part of the partner is lost. lam is the share of the
    image outside the box, 1 - ⌊τH⌋⌊τW⌋ / (HW).

    Args:
        num_classes: K; None if targets are always (B,K).
        scale: lowest and highest τ, 0 < low ≤ high ≤ 1; the paper uses 0.1 and 0.8.
        interpolation: "nearest", as in the released code, or "bilinear" with antialiasing, both as in torch's
            `interpolate`. With "nearest", pixel d of n comes from pixel ⌊d · (N / n)⌋ of N, computed in float32.
        per_batch: one τ for the batch, as in the released code, with a centre per image. By default every image has its
            own τ.
        prob: probability that a batch is mixed; see `Mixer`.

    Raises:
        ValueError: an argument out of range.
    """

    in_place = True

    def __init__(
        self,
        num_classes: int | None,
        scale: tuple[float, float] = (0.1, 0.8),
        interpolation: Interpolation = "nearest",
        per_batch: bool = False,
        *,
        prob: float = 1.0,
    ) -> None:
        super().__init__(prob)
        self.num_classes = class_count(num_classes)
        self.scale = check_scale(scale)
        self.interpolation: Interpolation = choice("interpolation", interpolation, get_args(Interpolation))
        self.per_batch = flag("per_batch", per_batch)

    def draw(self, batch_size: int, height: int, width: int, generator: torch.Generator | None) -> PasteParams:
        tau = draws.uniform(1 if self.per_batch else batch_size, generator, *self.scale)
        tau = draws.per_sample(tau, batch_size)
        centre_y = draws.pixels(batch_size, height, generator)
        centre_x = draws.pixels(batch_size, width, generator)
        boxes, lam = box_ops.shrunk(tau, centre_y, centre_x, height, width)
        return PasteParams(draws.permutation(batch_size, generator), boxes, lam)

    def apply(
        self, images: Tensor, targets: Tensor, params: PasteParams, *, inplace: bool = False
    ) -> tuple[Tensor, Tensor]:
        check_batch(images, targets, len(params.lam))
        mixed_targets = mix_area(targets, params.permutation, params.lam, self.num_classes)
        mixed_images = paste_resized(images, params.permutation, params.boxes, self.interpolation, inplace=inplace)
        return mixed_images, mixed_targets
