"""Append images tiled from images of the batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dali_mix.mixers import kernels


def splice(images: Tensor, grids: Sequence[tuple[int, int, Tensor, Tensor]]) -> Tensor:
    """Return `images`, followed by the tiled images of the grids.

    A cell is an image resized to ⌊H / rows⌋ × ⌊W / cols⌋ (bilinear, aligned corners). A tiling that does not fill
    H × W is resized to it in the same way.

    Args:
        images: (B,C,H,W), any real dtype; integer pixels are rounded.
        grids: a tuple (rows, cols, sources, dropped) for each grid. `sources` (n, rows · cols) int64 has the image in
            each cell, 0 … B - 1; `dropped` (n, rows · cols) bool is True for cells that are 0. Cells are in row-major
            order.

    Returns:
        (B + Σn, C, H, W), in the dtype and memory format of `images`.

    Raises:
        ValueError: shapes that do not match, more cells along a side than pixels, or, on a CPU, a source out of range.
    """
    height, width = images.shape[2:]
    for rows, cols, sources, dropped in grids:
        if not sources.shape == dropped.shape == (len(sources), rows * cols):
            raise ValueError(
                f"a grid of {rows}×{cols} with sources {tuple(sources.shape)} and dropped {tuple(dropped.shape)}: both"
                f" must be (n, {rows * cols})"
            )
        if min(height // rows, width // cols) < 1:
            raise ValueError(f"images of {height}×{width} pixels cannot be cut into {rows}×{cols}")
        if not kernels.pick("in_range", sources)(sources.flatten(), len(images)):
            lowest, highest = (int(end) for end in sources.aminmax())
            if lowest < 0:
                raise ValueError(f"a cell shows image {lowest}: images count from 0")
            raise ValueError(f"params drawn for a larger batch: a cell shows image {highest} of {len(images)}")
    return kernels.pick("splice", images)(images, grids)
