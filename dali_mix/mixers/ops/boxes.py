"""Boxes as (B,4) int64 rows of top, left, height, width, in pixels."""

from __future__ import annotations

from torch import Tensor

from dali_mix.mixers import kernels
from dali_mix.mixers.kernels.torch_per_image import clipped, kept_share
from dali_mix.mixers.ops import draws

__all__ = ["clipped", "cut", "kept_share", "shrunk"]


def cut(kept: Tensor, centre_y: Tensor, centre_x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return boxes centred on (centre_y, centre_x) and clipped at the image's border, and their `kept_share`.

    Args:
        kept: (B,) float64 in [0,1]. Before clipping, the sides of a box are ⌊√(1 - kept) · height⌋ and
            ⌊√(1 - kept) · width⌋, so about this share of the image is outside the box.
        centre_y, centre_x: (B,) int64, inside the image.

    Returns:
        boxes (B,4) int64, whose sides may be 0, and their `kept_share`, (B,) float32.
    """
    side = draws.square_root(1.0 - kept)
    return kernels.pick("clipped_boxes", side)(side, centre_y, centre_x, height, width)


def shrunk(scale: Tensor, centre_y: Tensor, centre_x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return boxes centred on (centre_y, centre_x), then shifted into the image, and their `kept_share`.

    Args:
        scale: (B,) float64 in (0,1]. The sides are ⌊scale · height⌋ and ⌊scale · width⌋, at least 1.
        centre_y, centre_x: (B,) int64, inside the image.

    Returns:
        boxes (B,4) int64, and their `kept_share`, (B,) float32.
    """
    return kernels.pick("shifted_boxes", scale)(scale, centre_y, centre_x, height, width)
