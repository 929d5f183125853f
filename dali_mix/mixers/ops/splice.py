"""Appending images that are tiled from images of the batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dali_mix.mixers import kernels


def splice(images: Tensor, grids: Sequence[tuple[int, int, Tensor, Tensor]]) -> Tensor:
    """Return `images`, followed by those of the grids.

    A cell is an image resized to ⌊H / rows⌋ × ⌊W / cols⌋ (bilinear, aligned corners); a tiling that does not fill
    H × W is resized in the same way.

    Args:
        images: (B,C,H,W), any real dtype; whole-number pixels are rounded.
        grids: each (rows, cols, sources (n, rows · cols) int64 in 0 … B - 1, dropped (n, rows · cols) bool: True where
            the cell is 0), cells row by row from the top left.

    Returns:
        (B + Σn, C, H, W), in the dtype and memory format of `images`.
    """
    return kernels.pick("splice", images)(images, grids)
