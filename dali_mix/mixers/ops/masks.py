"""Draw free-form masks."""

from __future__ import annotations

from torch import Tensor

from dali_mix.mixers import kernels


def draw_masks(lines: Tensor, discs: Tensor, height: int, width: int) -> Tensor:
    """Return masks of the pixels whose centre lies inside a disc, or closer to a line than the line's radius.

    Coordinates, lengths and radii are in pixels.

    Args:
        lines: (B,n,6) float32: y and x of the start, y and x of the direction (a unit vector), length, radius.
        discs: (B,m,3) float32: y and x of the centre, radius.

    Returns:
        (B,height,width) bool, True for the pixels of a mask, on the device of `lines`. Does not synchronize.
    """
    return kernels.pick("draw_masks", lines)(lines, discs, height, width)
