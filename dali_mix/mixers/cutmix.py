"""CutMix: paste a box of one image at the same position in another (arXiv 1905.04899)."""

from __future__ import annotations

import torch
from torch import Tensor

from dali_mix.mixers.base import BetaMixer, PasteParams, check_batch
from dali_mix.mixers.ops import boxes as box_ops
from dali_mix.mixers.ops import draws
from dali_mix.mixers.ops.paste import paste_boxes
from dali_mix.mixers.ops.targets import mix_area


class CutMix(BetaMixer[PasteParams]):
    """Paste a box of a partner image, and mix targets by the area pasted.

    With λ0 ~ Beta(alpha, alpha), the box has sides ⌊√(1 - λ0) · H⌋ and ⌊√(1 - λ0) · W⌋. It is centred on a uniformly
    drawn pixel and clipped at the border. lam is recomputed from the area of the clipped box.

    The released code halves the sides by integer division, so odd sides lose a pixel. Here the sides match the paper.

    Args:
        num_classes: K; None if targets are always (B,K).
        alpha: parameter of the Beta distribution; the paper uses 1.
        per_batch: one box for the batch, as in the released code. By default every image has its own.
        prob: probability that a batch is mixed; see `Mixer`.

    Raises:
        ValueError: an argument out of range.
    """

    def draw(self, batch_size: int, height: int, width: int, generator: torch.Generator | None) -> PasteParams:
        count = 1 if self.per_batch else batch_size
        kept = draws.beta(count, self.alpha, generator)
        centre_y = draws.pixels(count, height, generator)
        centre_x = draws.pixels(count, width, generator)
        boxes, lam = box_ops.cut(kept, centre_y, centre_x, height, width)
        return PasteParams(
            permutation=draws.permutation(batch_size, generator),
            boxes=draws.per_sample(boxes, batch_size),
            lam=draws.per_sample(lam, batch_size),
        )

    def apply(
        self, images: Tensor, targets: Tensor, params: PasteParams, *, inplace: bool = False
    ) -> tuple[Tensor, Tensor]:
        check_batch(images, targets, len(params.lam))
        mixed_targets = mix_area(targets, params.permutation, params.lam, self.num_classes)
        return paste_boxes(images, params.permutation, params.boxes, inplace=inplace), mixed_targets
