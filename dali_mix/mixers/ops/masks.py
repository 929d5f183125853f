"""Draw free-form masks."""

from __future__ import annotations

from torch import Tensor

from dali_mix.mixers import kernels


def draw_masks(lines: Tensor, discs: Tensor, height: int, width: int) -> Tensor:
    """Mark the pixels whose centre is closer to a line or disc than its radius.

    Args:
        lines: (B,n,6) float32: y, x of the start; y, x of the direction, a unit vector; length; radius.
        discs: (B,m,3) float32: y, x of the centre; radius.

    Returns:
        (B,height,width) bool, on the device of `lines`, without synchronizing.
    """
    return kernels.pick("draw_masks", lines)(lines, discs, height, width)
