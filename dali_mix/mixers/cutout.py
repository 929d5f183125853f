"""Cutout: set a square to zero (arXiv 1708.04552)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dali_mix.mixers.base import Mixer, check_batch
from dali_mix.mixers.description import MixedImage
from dali_mix.mixers.ops import boxes as box_ops
from dali_mix.mixers.ops import draws
from dali_mix.mixers.ops.paste import erase_boxes
from dali_mix.options import whole


@dataclass(frozen=True)
class CutoutParams:
    """Params of Cutout.

    Attributes:
        boxes: (B,4) int64, top, left, height, width, clipped at the border.
    """

    boxes: Tensor


class Cutout(Mixer[CutoutParams]):
    """Set a square around a uniformly drawn pixel, clipped at the border, to zero; targets are unchanged.

    Zero is the mean colour of normalized images, and black in other images.

    Args:
        size: side of the square in pixels; the paper uses 16 on CIFAR-10 and 8 on CIFAR-100.
        prob: probability that a batch is mixed; see `Mixer`.

    Raises:
        ValueError: an argument out of range.
    """

    changes_targets = False
    in_place = True

    def __init__(self, size: int, *, prob: float = 1.0) -> None:
        super().__init__(prob)
        self.size = whole("size", size, 1)

    def draw(self, batch_size: int, height: int, width: int, generator: torch.Generator | None) -> CutoutParams:
        centre_y = draws.pixels(batch_size, height, generator)
        centre_x = draws.pixels(batch_size, width, generator)
        side = torch.full_like(centre_y, self.size)
        return CutoutParams(boxes=box_ops.clipped(centre_y, centre_x, side, side, height, width))

    def apply(
        self, images: Tensor, targets: Tensor, params: CutoutParams, *, inplace: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Set the boxes to zero; targets are returned unchanged. See `Mixer.apply`."""
        check_batch(images, targets, len(params.boxes))
        return erase_boxes(images, params.boxes, inplace=inplace), targets

    def describe(self, images: Tensor, params: CutoutParams) -> list[MixedImage]:
        return [MixedImage(own, boxes=((y, x, h, w),)) for own, (y, x, h, w) in enumerate(params.boxes.tolist())]
