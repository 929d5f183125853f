"""SaliencyMix: paste a box around an image's most salient pixel into another image (arXiv 2006.01791)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dali_mix.mixers import checks
from dali_mix.mixers.base import BetaMixer, PasteParams, check_batch, check_images
from dali_mix.mixers.description import MixedImage, pasted
from dali_mix.mixers.ops import boxes as box_ops
from dali_mix.mixers.ops import draws
from dali_mix.mixers.ops.partners import of_partners
from dali_mix.mixers.ops.paste import paste_boxes
from dali_mix.mixers.ops.saliency import fine_grained_saliency, peaks
from dali_mix.mixers.ops.targets import mix_area


@dataclass(frozen=True)
class SaliencyMixParams:
    """Params of SaliencyMix: image i receives a box of image permutation[i].

    The box's position, and so λ, depends on the images: see `SaliencyMix.locate`.

    Attributes:
        permutation: (B,) int64.
        sides: (B,2) int64, height and width of the box before it is clipped at the border.
    """

    permutation: Tensor
    sides: Tensor


class SaliencyMix(BetaMixer[SaliencyMixParams]):
    """Paste a box around the most salient pixel of a partner image, and mix targets by the area pasted.

    With λ0 ~ Beta(alpha, alpha), the box has sides ⌊√(1 - λ0) · H⌋ and ⌊√(1 - λ0) · W⌋. It is centred on the partner's
    most salient pixel according to `fine_grained_saliency` (on ties, the first in row-major order), clipped at the
    border and pasted at the same position. lam is recomputed from the area of the clipped box.

    Saliency is defined on grey levels. uint8 images are used directly. Floating-point images are converted back with
    `mean` and `std`: round(255 · (x · std + mean)), clipped to 0 … 255. This is exact for float32 and float16. bfloat16
    has only 8 significant bits, so levels may be off by one where |x| is large, such as |x| ≥ 2 with std > 0.25.

    Args:
        num_classes: K; None if targets are always (B,K).
        alpha: parameter of the Beta distribution; the paper uses 1.
        per_batch: one box for the batch, around the most salient pixel of the first image's partner, as in the released
            code. By default every image has a box around the most salient pixel of its own partner.
        mean, std: normalization of floating-point images, three numbers each (red, green, blue) in 0..1 units, or [one]
            for grey images. None if all images are uint8. `dali_mix.engine` passes the pipeline's values.
        prob: probability that a batch is mixed; see `Mixer`.

    Raises:
        ValueError: an argument out of range, or only one of mean and std.
    """

    def __init__(
        self,
        num_classes: int | None,
        alpha: float = 1.0,
        per_batch: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        prob: float = 1.0,
    ) -> None:
        super().__init__(num_classes, alpha, per_batch, prob=prob)
        means, stds = checks.mean_and_std(mean, std)
        self.mean, self.std = means, stds

    def draw(self, batch_size: int, height: int, width: int, generator: torch.Generator | None) -> SaliencyMixParams:
        kept = draws.beta(1 if self.per_batch else batch_size, self.alpha, generator)
        side = draws.per_sample(draws.square_root(1.0 - kept), batch_size)
        return SaliencyMixParams(
            permutation=draws.permutation(batch_size, generator),
            sides=torch.stack([(side * height).long(), (side * width).long()], dim=1),
        )

    def apply(
        self, images: Tensor, targets: Tensor, params: SaliencyMixParams, *, inplace: bool = False
    ) -> tuple[Tensor, Tensor]:
        check_batch(images, targets, len(params.permutation))
        located = self.locate(images, params)
        mixed_targets = mix_area(targets, located.permutation, located.lam, self.num_classes)
        return paste_boxes(images, located.permutation, located.boxes, inplace=inplace), mixed_targets

    def locate(self, images: Tensor, params: SaliencyMixParams) -> PasteParams:
        """Return the partners, boxes and λ that `apply` uses for `images`.

        `CutMix.apply` with the returned params gives the same result as `apply` with `params`.
        """
        return self._locate(images, params)[0]

    def _locate(self, images: Tensor, params: SaliencyMixParams) -> tuple[PasteParams, tuple[Tensor, Tensor]]:
        """Return (params, (rows, columns)): the result of `locate`, and the centres of the boxes, (B,) int64 each."""
        height, width = images.shape[2:]
        if self.per_batch:
            found = peaks(self.saliency(of_partners(images, params.permutation[:1])))
            centre_y, centre_x = (coordinate.expand(len(images)) for coordinate in found)
        else:  # every image is a partner once, so compute each map once
            found = peaks(self.saliency(images))
            centre_y, centre_x = (of_partners(coordinate, params.permutation) for coordinate in found)
        box_h, box_w = params.sides.unbind(1)
        boxes = box_ops.clipped(centre_y, centre_x, box_h, box_w, height, width)
        located = PasteParams(params.permutation, boxes, box_ops.kept_share(boxes, height, width))
        return located, (centre_y, centre_x)

    def describe(self, images: Tensor, params: SaliencyMixParams) -> list[MixedImage]:
        located, (centre_y, centre_x) = self._locate(images, params)
        centres = list(zip(centre_y.tolist(), centre_x.tolist(), strict=True))
        return pasted(located.permutation, located.lam, located.boxes, centres)

    def saliency(self, images: Tensor) -> Tensor:
        """Return each image's saliency map, (B,H,W) uint8, as used by `apply`.

        Grey images are treated as three equal channels.

        Args:
            images: (B,3,H,W) or (B,1,H,W), uint8, or floating-point and normalized by `mean` and `std`.

        Raises:
            ValueError: floating-point images without mean and std, grey images with mean or std that differ by channel,
                or a number of channels other than 1 and 3.
        """
        check_images(images)
        channels = images.shape[1]
        if channels not in (1, 3):
            raise ValueError(
                f"images have shape {tuple(images.shape)}: saliency is defined on images of 1 (grey) or 3 (RGB) "
                "channels. Choose another mixer, such as CutMix"
            )
        if channels == 1:
            if images.is_floating_point() and any(len({*values}) > 1 for values in (self.mean or (), self.std or ())):
                raise ValueError(
                    f"images have one channel, and mean={self.mean}, std={self.std} differ by channel: pass [one] "
                    "number each, as the images were normalized"
                )
            images = images.expand(-1, 3, -1, -1).contiguous()
        return fine_grained_saliency(images, self.mean, self.std)
